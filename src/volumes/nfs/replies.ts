/**
 * Answers to calls that may not be done twice, for a client that sends one again since its connection broke before it had the
 * answer. What a server forgets with its end is told as what it then is: that it is there already, or is not there any more.
 */
import { createHash } from 'node:crypto';

const MOST = 1024;

export class LastReplies {
  readonly #replies = new Map<string, Buffer>();

  /** By the client's address and the whole of a call, its number included. */
  answer(address: string, message: Buffer, act: () => Buffer): Buffer {
    const key = `${address} ${createHash('sha1').update(message).digest('base64')}`;
    const known = this.#replies.get(key);
    if (known) return known;
    const reply = Buffer.from(act());
    this.#replies.set(key, reply);
    if (this.#replies.size > MOST) this.#replies.delete(this.#replies.keys().next().value!);
    return reply;
  }
}
