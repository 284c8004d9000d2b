/** Values as results: MIME types to texts, as coppice_interpreter/mime.py maps them to E2B's fields. */
import util from 'node:util';
import { tell } from './channel.ts';

export type Bundle = Readonly<Record<string, unknown>>;

/** As Deno has it: a method that returns a bundle, or a promise of one. */
const DISPLAY = Symbol.for('Jupyter.display');
/** Characters of JSON beside the text. */
const MAX_JSON = 3 << 20;

export async function bundleOf(value: unknown): Promise<Bundle> {
  const method = (value as { readonly [DISPLAY]?: unknown } | null | undefined)?.[DISPLAY];
  if (typeof method === 'function') {
    const bundle: unknown = await method.call(value);
    if (typeof bundle === 'object' && bundle !== null) return bundle as Bundle;
  }
  const text = textOf(value);
  const json = jsonOf(value);
  return json === undefined ? { 'text/plain': text } : { 'text/plain': text, 'application/json': json };
}

function textOf(value: unknown): string {
  if (typeof value !== 'string') return util.inspect(value);
  return util.inspect(value, { maxStringLength: null, breakLength: Number.POSITIVE_INFINITY }).slice(1, -1);
}

function jsonOf(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !(Array.isArray(value) || isPlain(value))) return undefined;
  try {
    const text = JSON.stringify(value);
    return text.length > MAX_JSON ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

const KINDS = {
  text: 'text/plain',
  html: 'text/html',
  markdown: 'text/markdown',
  svg: 'image/svg+xml',
  png: 'image/png',
  jpeg: 'image/jpeg',
  pdf: 'application/pdf',
  latex: 'text/latex',
  json: 'application/json',
  javascript: 'application/javascript',
} as const;

/** `display(value)`, `display.html(text)` and so on; pictures as bytes or base64. */
export function makeDisplay(): object {
  const show = (data: Bundle): void => tell({ type: 'result', main: false, data });
  const display = async (value: unknown): Promise<void> => show(await bundleOf(value));
  const of = ([name, mime]: [string, string]): [string, unknown] => [
    name,
    (data: unknown) => show({ [mime]: ArrayBuffer.isView(data) ? base64(data) : data }),
  ];
  return Object.assign(display, { mime: show, ...Object.fromEntries(Object.entries(KINDS).map(of)) });
}

function base64(view: ArrayBufferView): string {
  return Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString('base64');
}
