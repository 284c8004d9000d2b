/**
 * From the code of a cell to what V8 evaluates as a script of its REPL mode: the statements of modules become expressions
 * of the same effect, types are taken off. Lines stay lines.
 */
import { stripTypeScriptTypes } from 'node:module';
import vm from 'node:vm';
import { scan } from './scan.ts';

/** Names of globals that stand for what only a module has. */
export const IMPORT = '__coppice_import__';
export const META = '__coppice_import_meta__';

const IMPORT_STATEMENT =
  /import\b\s*(?:(?<name>[^\s,{}*'"]+)\s*(?:,\s*|(?=\bfrom\b)))?(?:\*\s*as\s+(?<all>[^\s,{}'"]+)\s*|\{(?<some>[^}]*)\}\s*)?(?:from\s*)?(?<module>'[^'\n]*'|"[^"\n]*")(?<options>\s*(?:with|assert)\s*\{[^}]*\})?[ \t]*;?/y;
const EXPORT_LIST =
  /export\s*(?:\*(?:\s*as\s+[^\s'"]+)?|\{[^}]*\})\s*(?:from\s*(?<module>'[^'\n]*'|"[^"\n]*"))?[ \t]*;?/y;
const EXPORT_DECLARATION =
  /export\s+(?:default\s+(?=(?:async\s+)?function\b\s*\*?\s*[^\s(*]|class\s+(?!extends\b)[^\s{]))?/y;
const EXPORT_DEFAULT = /export\s+default\b/y;

/** Throws SyntaxError for what is no TypeScript. */
export function stripTypes(code: string): string {
  try {
    return stripTypeScriptTypes(code, { mode: 'strip' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX') throw error;
    // Enums, namespaces, parameter properties: code is made for them, and lines may move.
    return stripTypeScriptTypes(code, { mode: 'transform' });
  }
}

export function asScript(code: string): string {
  const script = /\b(?:import|export)\b/.test(code) ? withoutModuleSyntax(code) : code;
  return isObjectLiteral(script) ? `(${script}\n)` : script;
}

function withoutModuleSyntax(code: string): string {
  const tokens = scan(code);
  let [script, from] = ['', 0];
  const replace = (start: number, length: number, by: string): void => {
    // A statement that began before is replaced already.
    if (start < from) return;
    const lines = code.slice(start, start + length).split('\n').length - by.split('\n').length;
    script += code.slice(from, start) + by + '\n'.repeat(Math.max(lines, 0));
    from = start + length;
  };
  for (const [index, { text, start, depth }] of tokens.entries()) {
    const [before, next, afterNext] = [tokens[index - 1]?.text, tokens[index + 1], tokens[index + 2]];
    if (before === '.' || next?.text === ':') continue;
    if (text === 'import') {
      if (next?.text === '(') replace(start, text.length, IMPORT);
      else if (next?.text === '.' && afterNext?.text === 'meta') replace(start, afterNext.start + 4 - start, META);
      else if (depth === 0) replaceAt(code, start, IMPORT_STATEMENT, importOf, replace);
    } else if (text === 'export' && depth === 0) {
      replaceAt(code, start, EXPORT_LIST, ({ module }) => (module ? `await ${IMPORT}(${module});` : ';'), replace) ||
        replaceAt(code, start, EXPORT_DECLARATION, () => '', replace, next?.text === 'default') ||
        replaceAt(code, start, EXPORT_DEFAULT, () => 'void', replace);
    }
  }
  return script + code.slice(from);
}

type Groups = Readonly<Record<string, string | undefined>>;

/** False: there is nothing of the kind at that place. `whole`: only if it takes the word after `export` too. */
function replaceAt(
  code: string,
  start: number,
  pattern: RegExp,
  by: (groups: Groups) => string,
  replace: (start: number, length: number, by: string) => void,
  whole = false,
): boolean {
  pattern.lastIndex = start;
  const match = pattern.exec(code);
  if (match === null || (whole && !match[0].includes('default'))) return false;
  replace(start, match[0].length, by(match.groups ?? {}));
  return true;
}

function importOf({ name, all, some, module, options }: Groups): string {
  const call = `await ${IMPORT}(${module}${options ? `, {${options.replace(/^\s*(with|assert)/, ' with:')} }` : ''})`;
  const names = (some ?? '')
    .replace(/\/\/[^\n]*|\/\*[\s\S]*?\*\//g, '')
    .split(',')
    .map((one) => one.trim().replace(/\s+as\s+/, ': '))
    .filter((one) => one !== '');
  if (name !== undefined) names.unshift(`default: ${name}`);
  if (all !== undefined && name !== undefined) return `const ${all} = ${call}, { default: ${name} } = ${all};`;
  if (all !== undefined) return `const ${all} = ${call};`;
  return names.length > 0 ? `const { ${names.join(', ')} } = ${call};` : `${call};`;
}

/** What a person means by `{a: 1}`, which is a block with a label to a script. */
function isObjectLiteral(code: string): boolean {
  if (!/^\s*\{[\s\S]*\}\s*$/.test(code)) return false;
  try {
    new vm.Script(`(async () => (${code}\n))`);
    return true;
  } catch {
    return false;
  }
}
