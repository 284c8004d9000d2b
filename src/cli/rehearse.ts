/** Creates that are asked for while nobody waits, so that the first real ones are not the slowest. */
import { Agent, type RequestOptions, request } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import type { Certificate } from '../edge/certificate.ts';

export interface Rehearsal {
  /** Where control listens. */
  readonly address: string;
  readonly port: number;
  readonly apiKey: string;
  /** What the port serves with, and a name that it is for. */
  readonly tls?: { readonly certificate: Certificate; readonly name: string };
}

const REHEARSALS = 300;
const PAYLOAD = JSON.stringify({
  templateID: 'rehearsal',
  timeout: 60,
  metadata: { key: 'value' },
  envVars: { KEY: 'value' },
});

/**
 * The first creates would otherwise pay for code that no one has run: the runtimes of control and node compile what is
 * called often. The template asked for does not exist, so each is refused and nothing is done.
 */
export async function rehearse({ address, port, apiKey, tls }: Rehearsal): Promise<void> {
  const one = { keepAlive: true, maxSockets: 1 };
  const agent = tls ? new TlsAgent(one) : new Agent(one);
  const options: RequestOptions = {
    host: address,
    port,
    agent,
    method: 'POST',
    path: '/v2/sandboxes',
    headers: { 'X-API-Key': apiKey, 'Content-Type': 'application/json', 'User-Agent': 'coppice-rehearsal' },
    // Its own certificate is all that is trusted, whoever signed it.
    ...(tls ? { ca: tls.certificate.certificate, allowPartialTrustChain: true, servername: tls.name } : {}),
  };
  try {
    for (let count = 0; count < REHEARSALS; count++) await exchange(options, tls !== undefined);
  } finally {
    agent.destroy();
  }
}

function exchange(options: RequestOptions, secure: boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    const sent = secure ? tlsRequest(options) : request(options);
    sent.once('error', reject);
    sent.once('response', (answer) => {
      answer.once('error', reject);
      answer.once('end', resolve);
      answer.resume();
    });
    sent.end(PAYLOAD);
  });
}
