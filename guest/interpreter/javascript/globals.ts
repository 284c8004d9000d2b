/** What user code finds beside the globals of Node: require and import() from its own directory, display, exit. */
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';
import { makeDisplay } from './display.ts';
import { IMPORT, META } from './source.ts';

/** process.exit in a cell ends the cell. */
export class ProcessExit extends Error {
  override readonly name = 'ProcessExit';
  readonly code: number;

  constructor(code: number) {
    super(String(code));
    this.code = code;
  }
}

export function setGlobals(nodeForChildren: string | undefined): void {
  const display = makeDisplay();
  const module = { exports: {} };
  const globals = { require: requireHere(), module, exports: module.exports, display, $$: display };
  for (const [name, value] of Object.entries(globals)) define(name, { value, writable: true });
  define('__filename', { get: cellFile, set: overwrite('__filename') });
  define('__dirname', { get: () => process.cwd(), set: overwrite('__dirname') });
  define(IMPORT, { value: importHere });
  define(META, { get: metaHere });
  process.exit = (code = process.exitCode ?? 0) => {
    throw new ProcessExit(Number(code));
  };
  process.argv.splice(1);
  process.execArgv.splice(0);
  if (nodeForChildren !== undefined) process.execPath = nodeForChildren;
  process.argv[0] = process.execPath;
}

function define(name: string, descriptor: PropertyDescriptor): void {
  Object.defineProperty(globalThis, name, { configurable: true, enumerable: false, ...descriptor });
}

/** An assignment makes an ordinary variable of it. */
function overwrite(name: string): (value: unknown) => void {
  return (value) => define(name, { value, writable: true });
}

function cellFile(): string {
  return path.join(process.cwd(), 'cell.js');
}

/** Modules are looked for from where the process is now, which user code may change. */
function requireHere(): NodeJS.Require {
  const now = (): NodeJS.Require => createRequire(cellFile());
  const require = (id: string): unknown => now()(id);
  const { cache, extensions, main } = now();
  const resolve = Object.assign((...args: Parameters<NodeJS.RequireResolve>) => now().resolve(...args), {
    paths: (request: string) => now().resolve.paths(request),
  });
  return Object.assign(require, { cache, extensions, main, resolve });
}

let importer: { readonly from: string; readonly load: (id: string, options?: object) => Promise<unknown> } | undefined;

/** import() of Node's own loader, as a file in the present directory would have it. */
function importHere(id: string, options?: object): Promise<unknown> {
  const from = cellFile();
  if (importer?.from !== from) {
    const importModuleDynamically = vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER;
    const script = new vm.Script('(id, options) => import(id, options)', { filename: from, importModuleDynamically });
    importer = { from, load: script.runInThisContext() };
  }
  return importer.load(id, options);
}

function metaHere(): ImportMeta {
  const filename = cellFile();
  const url = pathToFileURL(filename).href;
  const resolve = (id: string): string => {
    const found = createRequire(filename).resolve(id);
    return path.isAbsolute(found) ? pathToFileURL(found).href : found;
  };
  return { dirname: path.dirname(filename), filename, url, main: false, resolve } as ImportMeta;
}
