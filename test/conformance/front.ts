/**
 * Stands before the service's API for one client: holds every answer against the contract, and remembers which verbs were
 * asked while which test ran.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { declaredVerb } from '../../src/contract/e2b/answers.ts';
import { checkingAnswers } from '../helpers/answer-check.ts';

export interface Front {
  readonly url: string;
  /** By verb, as `POST /v2/sandboxes`: the tests that asked for it and got it, or 501. */
  readonly asked: ReadonlyMap<string, ReadonlySet<string>>;
  /** Names what asks until it is called again; before that nothing is remembered. */
  during(test: string): void;
  /** Throws what was wrong with answers since it was called last. */
  check(): void;
  close(): Promise<void>;
}

export async function openFront(port: number): Promise<Front> {
  const asked = new Map<string, Set<string>>();
  let test: string | undefined;
  let seen = 0;
  const { handle, faults } = checkingAnswers((req, res) => {
    const verb = declaredVerb(req.method ?? '', (req.url ?? '').split('?', 1)[0] ?? '');
    const by = test;
    res.once('finish', () => {
      const got = res.statusCode < 400 || res.statusCode === 501;
      if (verb !== undefined && by !== undefined && got) asked.set(verb, (asked.get(verb) ?? new Set()).add(by));
    });
    const { method, url: path, headers } = req;
    const forwarded = request({ agent: false, host: '127.0.0.1', port, method, path, headers }, (answer) => {
      res.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(res);
    });
    const abandon = (): void => void (res.writableFinished || forwarded.destroy());
    res.once('close', abandon);
    forwarded.once('error', () => res.destroy());
    req.pipe(forwarded);
  });
  const server = createServer(handle);
  // Its clients close what they no longer need; closed by it, a connection may be one that a client is just using.
  server.keepAliveTimeout = 0;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    during: (next) => {
      test = next;
    },
    check: () => {
      const fresh = faults.slice(seen);
      seen = faults.length;
      assert.deepEqual(fresh, [], 'answers that are not of the contract');
    },
    close: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
