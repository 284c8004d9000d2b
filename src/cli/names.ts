/** Whether the names of a domain lead to this host, by the resolver of this host, and what to do where they do not. */
import { lookup } from 'node:dns/promises';
import { networkInterfaces } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { namesUnder } from '../edge/certificate.ts';

export interface Names {
  readonly here: boolean;
  readonly detail: string;
}

export type Resolve = (name: string) => Promise<readonly string[]>;

/** A resolver that answers later than this does not answer. */
const ANSWER_MS = 3_000;

const bySystem: Resolve = async (name) => (await lookup(name, { all: true })).map(({ address }) => address);

/** @param host a domain without port */
export async function whereNamesLead(host: string, resolve: Resolve = bySystem): Promise<Names> {
  const found = await Promise.all(
    namesUnder(host).map(async (name) => {
      const late = sleep(ANSWER_MS, [], { ref: false });
      return { name, addresses: await Promise.race([resolve(name).catch(() => []), late]) };
    }),
  );
  const lost = found.find(({ addresses }) => addresses.length === 0);
  if (lost) return { here: false, detail: `${lost.name} does not resolve on this host` };
  const own = new Set(
    Object.values(networkInterfaces())
      .flat()
      .map((one) => one?.address),
  );
  const elsewhere = found.find(({ addresses }) => !addresses.some((one) => one.startsWith('127.') || own.has(one)));
  if (elsewhere)
    return { here: false, detail: `${elsewhere.name} is ${elsewhere.addresses.join(', ')}, no address of this host` };
  return { here: true, detail: `api.${host} and <port>-<id>.${host} lead to this host` };
}

/** One line for programs of this host alone; the package resolves every name under .localhost, as browsers do. */
export const oneHostHint = (host: string): string =>
  host.endsWith('.localhost')
    ? 'sudo apt-get install libnss-myhostname'
    : 'a domain such as coppice.localhost, after sudo apt-get install libnss-myhostname';
