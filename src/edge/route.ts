/**
 * Where a request goes, from its Host, target and headers alone (E2B's rules: host name, the two headers, path form,
 * signed file links; everything else is the API). Pure; every part of the input is hostile.
 */
import { isIP } from 'node:net';
import { ENVD_PORT } from '../contract/node-api.ts';

export type Route =
  | { readonly kind: 'api' }
  /** `path` is the request target for the sandbox: path and query, as the client wrote them. */
  | { readonly kind: 'sandbox'; readonly sandboxID: string; readonly port: number; readonly path: string }
  /** A signed /files link without an id: the node finds the sandbox by the signature. */
  | { readonly kind: 'signed'; readonly port: typeof ENVD_PORT }
  | { readonly kind: 'refused'; readonly status: number; readonly message: string };

export interface RouteInput {
  /** Request target as it came. */
  readonly url: string;
  /** Flat name/value list as node:http gives it: repeated fields stay visible. */
  readonly rawHeaders: readonly string[];
}

/** `<id>` or `<id>-<anything>`: the suffix is the client id of older SDKs and means nothing. */
const ID = /^([a-z0-9]{1,40})(?:-[A-Za-z0-9_-]{0,64})?$/;
const HOST_LABEL = /^(\d+)-([a-z0-9]{1,40})(?:-[a-z0-9_-]*)?$/;
const MAX_HOST = 262;
/** What node:http may send as a request target. */
const TARGET = /^[\x21-\xff]*$/;
const PATH_PREFIX = '/sandbox/';

const refused = (status: number, message: string): Route => ({ kind: 'refused', status, message });

/**
 * Prepares the configured domains (lower case, no port) once; the result routes one request.
 * @param domains as an owner writes them: `coppice.example`, `foo.test:8443`. `localhost` is always one.
 */
export function createRouter(domains: readonly string[]): (input: RouteInput) => Route {
  const known = [...new Set(['localhost', ...domains.map((domain) => hostName(domain) ?? '')])].filter(Boolean);
  return (input) => routeTo(input, known);
}

function routeTo(input: RouteInput, domains: readonly string[]): Route {
  const fields = pick(input.rawHeaders);
  if (fields === undefined) return refused(400, 'Host, E2b-Sandbox-Id and E2b-Sandbox-Port may be sent once each');
  if (input.url !== '*' && !input.url.startsWith('/')) return refused(400, 'The request target must be a path');

  const host = hostName(fields.host ?? '');
  if (host === undefined) return refused(400, 'The Host header is malformed');
  const byHost = routeByHost(host, domains, input.url);
  if (byHost) return byHost;

  if (mayUseHeaders(host, domains) && (fields.id !== undefined || fields.port !== undefined)) {
    if (fields.id === undefined) return refused(400, 'E2b-Sandbox-Port was sent without E2b-Sandbox-Id');
    if (fields.port === undefined) return refused(400, 'E2b-Sandbox-Id was sent without E2b-Sandbox-Port');
    return toSandbox(fields.id, fields.port, input.url);
  }
  if (input.url.startsWith(PATH_PREFIX)) return routeByPath(input.url);
  if (isSigned(input.url)) return { kind: 'signed', port: ENVD_PORT };
  return { kind: 'api' };
}

/** The three fields that decide, or undefined if one of them came twice. */
function pick(rawHeaders: readonly string[]): { host?: string; id?: string; port?: string } | undefined {
  const found: { host?: string; id?: string; port?: string } = {};
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!;
    // Names of other lengths cannot be one of the three.
    if (name.length !== 4 && name.length !== 14 && name.length !== 16) continue;
    const lower = name.toLowerCase();
    const key =
      lower === 'host' ? 'host' : lower === 'e2b-sandbox-id' ? 'id' : lower === 'e2b-sandbox-port' ? 'port' : undefined;
    if (key === undefined) continue;
    if (found[key] !== undefined) return undefined;
    found[key] = rawHeaders[i + 1]!;
  }
  return found;
}

/** Host without port and closing dot, lower case; '' when absent; undefined when it cannot be a host. */
function hostName(header: string): string | undefined {
  if (header.length > MAX_HOST) return undefined;
  const value = header.trim().toLowerCase();
  if (value === '') return '';
  const bracketed = /^\[([0-9a-f:.]+)\](?::\d{1,5})?$/.exec(value);
  if (bracketed) return isIP(bracketed[1]!) === 6 ? bracketed[1] : undefined;
  const plain = /^([a-z0-9_.-]+?)\.?(?::\d{1,5})?$/.exec(value);
  return plain?.[1];
}

function routeByHost(host: string, domains: readonly string[], url: string): Route | undefined {
  for (const domain of domains) {
    if (!host.endsWith(`.${domain}`)) continue;
    const label = host.slice(0, -domain.length - 1);
    // With a dot in it, it is a name under a domain that lies under this one, such as coppice.localhost.
    if (!/^\d+-[^.]*$/.test(label)) continue;
    const match = HOST_LABEL.exec(label);
    if (!match) return refused(400, 'The host name must be <port>-<sandbox id>.<domain>');
    return toSandbox(match[2]!, match[1]!, url);
  }
  return undefined;
}

function mayUseHeaders(host: string, domains: readonly string[]): boolean {
  return host === 'localhost' || isIP(host) !== 0 || domains.some((domain) => host === `sandbox.${domain}`);
}

function routeByPath(url: string): Route {
  const cut = url.search(/[?#]/);
  const path = cut < 0 ? url : url.slice(0, cut);
  const query = cut < 0 ? '' : url.slice(cut);
  const match = /^\/sandbox\/([^/]*)(?:\/([^/]*)(\/.*)?)?$/s.exec(path);
  if (!match) return refused(400, 'The path must be /sandbox/<sandbox id>/<port>/...');
  return toSandbox(match[1]!, match[2] ?? '', `${match[3] ?? '/'}${query}`);
}

function toSandbox(id: string, port: string, path: string): Route {
  const sandboxID = ID.exec(id)?.[1];
  if (sandboxID === undefined) return refused(400, 'The sandbox id is malformed');
  const number = /^\d{1,5}$/.test(port) ? Number(port) : 0;
  if (number < 1 || number > 65_535) return refused(400, 'The port must be a number from 1 to 65535');
  if (!TARGET.test(path)) return refused(400, 'The request target has characters that may not be in one');
  return { kind: 'sandbox', sandboxID, port: number, path };
}

function isSigned(url: string): boolean {
  return url.startsWith('/files?') && /[?&]signature=[^&#]/.test(url);
}
