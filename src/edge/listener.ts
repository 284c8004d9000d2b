/** The server under the edge: plain HTTP/1.1, or the same over TLS. Not listening yet. */
import { createServer, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Log } from '../telemetry/log.ts';
import type { KeyPair } from './certificate.ts';

export interface Listener {
  readonly server: Server;
  /** For connections from now on; those that are open go on. Without TLS it does nothing. */
  renew(pair: KeyPair): void;
}

/** Milliseconds for a stranger to shake hands. */
const HANDSHAKE_MS = 15_000;

export function createListener({ certificate, log }: { readonly certificate?: KeyPair; readonly log: Log }): Listener {
  if (certificate === undefined) return { server: createServer(), renew: () => {} };
  // HTTP/2 would put all exchanges of a client under one connection's flow control (docs/decisions/0009), and upgrades
  // want a connection of their own. Half-closes of these pass through, as they do without TLS.
  const options = { minVersion: 'TLSv1.2', ALPNProtocols: ['http/1.1'], allowHalfOpen: true } as const;
  const contextOf = ({ certificate: cert, key }: KeyPair) => ({ cert, key, minVersion: options.minVersion });
  const server = createTlsServer({ ...options, ...contextOf(certificate), handshakeTimeout: HANDSHAKE_MS });
  server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
    log.debug({ errorCode: error.code, error: error.message }, 'a TLS handshake failed');
    socket.destroy();
  });
  return { server, renew: (next) => server.setSecureContext(contextOf(next)) };
}
