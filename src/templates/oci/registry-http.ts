/**
 * GET from a registry, which is a stranger that may send whoever asks it elsewhere: redirects are followed by hand, never
 * from https to http, and what proves who asks stays with the host it was meant for. Nothing is fetched from this host's
 * loopback or from link-local addresses (the metadata services of clouds), by whatever name, unless the operator has named
 * the registry as one without TLS.
 */
import dns from 'node:dns';
import http, { type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { CoppiceError } from '../../contract/errors.ts';
import { throwIfAborted } from '../run.ts';

export interface RegistryAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** To be read to its end or destroyed. Errors: unavailable (nothing more comes, for a minute or for good), aborted. */
  readonly body: AsyncIterable<Uint8Array> & { destroy(): void };
}

export interface RegistryRequest {
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent to the host of the URL, and to none that it redirects to. */
  readonly authorization?: string;
  readonly signal?: AbortSignal;
}

export interface RegistryHttp {
  /**
   * The last answer of a chain of redirects, whatever its status. Errors: unavailable (nobody answers), bad_request (a
   * redirect or an address that is not followed), aborted.
   */
  get(url: URL, request?: RegistryRequest): Promise<RegistryAnswer>;
  /** Whether this host is spoken to without TLS. */
  isPlain(host: string): boolean;
  close(): void;
}

export interface RegistryHttpOptions {
  /** `host` or `host:port` of registries that have no TLS, as the operator names them. They may be on the loopback. */
  readonly insecureRegistries?: readonly string[];
  /** Milliseconds without a byte. */
  readonly idleMs?: number;
}

const MOST_REDIRECTS = 5;
const IDLE_MS = 60_000;
const REDIRECTS = [301, 302, 303, 307, 308];

const FORBIDDEN = new net.BlockList();
for (const [prefix, bits] of [
  ['0.0.0.0', 8],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
] as const)
  FORBIDDEN.addSubnet(prefix, bits, 'ipv4');
for (const [prefix, bits] of [
  ['::', 127],
  ['fe80::', 10],
  ['ff00::', 8],
] as const)
  FORBIDDEN.addSubnet(prefix, bits, 'ipv6');

/** Addresses that no registry of a caller's choice is looked for at. */
export function isForbiddenAddress(address: string): boolean {
  const family = net.isIP(address);
  return family === 0 || FORBIDDEN.check(address, family === 4 ? 'ipv4' : 'ipv6');
}

export function createRegistryHttp(options: RegistryHttpOptions = {}): RegistryHttp {
  const { idleMs = IDLE_MS } = options;
  const insecure = new Set((options.insecureRegistries ?? []).map((name) => name.toLowerCase()));
  const isPlain = (host: string) => insecure.has(host.toLowerCase());
  const agents = {
    'http:': new http.Agent({ keepAlive: true }),
    'https:': new https.Agent({ keepAlive: true }),
  };

  const ask = (url: URL, headers: Record<string, string>, signal: AbortSignal | undefined): Promise<RegistryAnswer> => {
    const { promise, resolve, reject } = Promise.withResolvers<RegistryAnswer>();
    const plain = url.protocol === 'http:';
    const request = (plain ? http : https).get(url, {
      agent: agents[plain ? 'http:' : 'https:'],
      headers: { ...headers, 'user-agent': 'coppice' },
      timeout: idleMs,
      lookup: isPlain(url.host) ? dns.lookup : guardedLookup,
      signal,
    });
    const silent = () => new CoppiceError('unavailable', `${url.host} sent nothing for ${idleMs / 1000} s`);
    let body: IncomingMessage | undefined;
    request.on('timeout', () => {
      body?.destroy(silent());
      request.destroy(silent());
    });
    request.on('error', (error) => reject(refused(url, error, signal)));
    request.on('response', (response) => {
      body = response;
      const read = async function* (): AsyncGenerator<Uint8Array> {
        try {
          yield* response;
        } catch (error) {
          throw refused(url, error as Error, signal);
        }
      };
      const destroy = () => response.destroy();
      const { statusCode = 0, headers } = response;
      resolve({ status: statusCode, headers, body: { destroy, [Symbol.asyncIterator]: read } });
    });
    return promise;
  };

  return {
    isPlain,
    close: () => {
      for (const agent of Object.values(agents)) agent.destroy();
    },
    async get(first, { headers = {}, authorization, signal } = {}) {
      let url = first;
      let own = authorization;
      for (let redirects = 0; ; redirects++) {
        throwIfAborted(signal);
        checkURL(url, isPlain);
        const answer = await ask(url, { ...headers, ...(own === undefined ? {} : { authorization: own }) }, signal);
        const { location } = answer.headers;
        if (!REDIRECTS.includes(answer.status) || location === undefined) return answer;
        answer.body.destroy();
        if (redirects === MOST_REDIRECTS) throw bad(`${first.host} redirects more than ${MOST_REDIRECTS} times`);
        const next = URL.parse(location, url.href);
        if (next === null) throw bad(`${url.host} redirects to what is no URL`);
        if (next.protocol === 'http:' && url.protocol === 'https:')
          throw bad(`${url.host} redirects to ${next.host} without TLS`);
        // Gone for good: a way back must not bring it back either.
        if (next.origin !== url.origin) own = undefined;
        url = next;
      }
    },
  };
}

function checkURL(url: URL, isPlain: (host: string) => boolean): void {
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw bad(`${url.protocol} is not followed`);
  if (url.username !== '' || url.password !== '') throw bad(`a URL of ${url.host} holds a user's name`);
  if (isPlain(url.host)) return;
  if (url.protocol === 'http:')
    throw bad(`${url.host} would be asked without TLS; the operator can allow it as an insecure registry`);
  // The name is not looked up when it is an address.
  const address = url.hostname.replace(/^\[|\]$/g, '');
  if (net.isIP(address) !== 0 && isForbiddenAddress(address)) throw bad(`${url.host} is not a place for a registry`);
}

/** Looks a name up and leaves out the forbidden addresses; what is connected to is what was checked. */
const guardedLookup: net.LookupFunction = (hostname, options, callback) => {
  dns.lookup(hostname, { ...options, all: true }, (error, addresses) => {
    if (error) return callback(error, '', 0);
    const allowed = addresses.filter(({ address }) => !isForbiddenAddress(address));
    const [first] = allowed;
    if (first === undefined) return callback(bad(`${hostname} is not a place for a registry`), '', 0);
    if (options.all) return callback(null, allowed);
    return callback(null, first.address, first.family);
  });
};

function refused(url: URL, error: Error, signal: AbortSignal | undefined): CoppiceError {
  if (signal?.aborted)
    return new CoppiceError('aborted', `the download from ${url.host} was stopped`, { cause: error });
  if (error instanceof CoppiceError) return error;
  return new CoppiceError('unavailable', `${url.host} cannot be reached: ${error.message}`, { cause: error });
}

function bad(message: string): CoppiceError {
  return new CoppiceError('bad_request', message);
}
