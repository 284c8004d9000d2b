/**
 * A clone begins its life with a greeting, and its agent has seen only one before its checkpoint: not enough for the runtime
 * to have settled how that code is run. So it is rehearsed, as the host's warm-up rehearses every other operation.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { FRAME, NONCE_BYTES } from '../../src/channel/protocol.ts';
import { serve } from './session.ts';
import { portWriter, type TransportEvents } from './transport.ts';
import { header } from './wire.ts';

/** The runtime keeps what it learns of a function from its eighth call or so on. */
const ROUNDS = 60;

/** Greets itself; what it answers goes to /dev/null the way that it goes to the port. */
export async function rehearseGreetings(writable: (fd: number) => boolean): Promise<void> {
  const sink = fs.openSync('/dev/null', 'r+');
  let events: TransportEvents | undefined;
  serve(
    (theirs) => {
      events = theirs;
      return portWriter(sink, writable);
    },
    () => {},
  );
  for (let round = 0; round < ROUNDS; round++) {
    events!.onBytes(Buffer.concat([header(FRAME.HELLO, 0, 0, NONCE_BYTES), randomBytes(NONCE_BYTES)]));
    await turn();
  }
  fs.closeSync(sink);
}
