/**
 * Ends the TCP connections that lead out of the machine, by sock_diag(7), as `ss --kill` does. After a restore their other
 * ends know nothing of this machine: without it programs would wait for answers until they gave up by themselves.
 */
import fs from 'node:fs';
import type { IdentityResult } from '../../src/channel/protocol.ts';
import type { Libc } from './libc.ts';

const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const SOCK_DESTROY = 21;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const IPPROTO_TCP = 6;
const MSG_DONTWAIT = 0x40;
const ENOENT = 2;
/** A bit for each state of TCP that has another end: all but TIME_WAIT (6), CLOSE (7) and LISTEN (10). */
const STATES = 0b1_1011_0011_1110;

const HEADER_BYTES = 16;
/** struct nlmsghdr and inet_diag_req_v2. */
const REQUEST_BYTES = 72;
/** struct inet_diag_sockid: where it is in a request and in an answer (inet_diag_msg), and within it the addresses. */
const ID_BYTES = 48;
const ID_IN_REQUEST = 24;
const ID_IN_ANSWER = 20;
const SOURCE = 4;
const DESTINATION = 20;
const ADDRESS_BYTES = 16;
/** The kernel puts at most this much into one answer. */
const ANSWER_BYTES = 32_768;
/** Requests that are sent at once: their acknowledgements fit the socket's buffer. */
const BATCH = 64;

export type Connections = NonNullable<IdentityResult['connections']>;

/** Throws what the C library does, where the kernel does not know of sockets or will not tell. */
export function cutConnections(libc: Libc): Connections {
  const socket = libc.call('socket', AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  try {
    const answer = Buffer.alloc(ANSWER_BYTES);
    const receive = (): Buffer => answer.subarray(0, libc.call('recv', socket, answer, ANSWER_BYTES, MSG_DONTWAIT));
    const send = (bytes: Buffer): void => void libc.call('sendto', socket, bytes, bytes.length, 0, null, 0);

    // All are found before the first is ended: an end would move what has not been told yet.
    const requests: Buffer[] = [];
    for (const family of [AF_INET, AF_INET6]) {
      send(listRequest(family));
      let state: ListState;
      do state = readList(receive(), requests);
      while (state === 'more');
      // Of IPv6: the kernel is without it.
      if (state === 'refused' && family === AF_INET) throw new Error('the kernel does not tell of TCP sockets');
    }
    let cut = 0;
    let left = 0;
    for (let at = 0; at < requests.length; at += BATCH) {
      const batch = requests.slice(at, at + BATCH);
      send(Buffer.concat(batch));
      for (let acknowledged = 0; acknowledged < batch.length; ) {
        for (const error of readAcknowledgements(receive())) {
          acknowledged++;
          if (error === 0) cut++;
          else if (error !== -ENOENT) left++;
        }
      }
    }
    return { cut, left };
  } finally {
    fs.closeSync(socket);
  }
}

/** What comes after an answer: another one, or nothing, since that was all or the kernel knows no such sockets. */
export type ListState = 'more' | 'done' | 'refused';

/** Asks for the connections of one family of addresses. */
export function listRequest(family: number): Buffer {
  const request = Buffer.alloc(REQUEST_BYTES);
  writeRequest(request, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
  request.writeUInt32LE(STATES, 20);
  return request;
}

/** Adds to `requests` one that ends each connection told in `answer`, unless it is on the loopback. */
export function readList(answer: Buffer, requests: Buffer[]): ListState {
  for (const { type, message } of messagesOf(answer)) {
    // Both begin with an errno.
    if (type === NLMSG_DONE || type === NLMSG_ERROR)
      return message.length >= HEADER_BYTES + 4 && message.readInt32LE(HEADER_BYTES) < 0 ? 'refused' : 'done';
    if (type !== SOCK_DIAG_BY_FAMILY || message.length < ID_IN_ANSWER + ID_BYTES) continue;
    const id = message.subarray(ID_IN_ANSWER, ID_IN_ANSWER + ID_BYTES);
    const family = message[HEADER_BYTES]!;
    if (isLoopback(family, id.subarray(SOURCE)) || isLoopback(family, id.subarray(DESTINATION))) continue;
    const request = Buffer.alloc(REQUEST_BYTES);
    writeRequest(request, SOCK_DESTROY, NLM_F_ACK, family);
    // With its cookie: another that has the same ends by then is not meant.
    request.set(id, ID_IN_REQUEST);
    requests.push(request);
  }
  return 'more';
}

/** 0, or a negative errno, of each. */
export function readAcknowledgements(answer: Buffer): number[] {
  const errors: number[] = [];
  for (const { type, message } of messagesOf(answer))
    if (type === NLMSG_ERROR && message.length >= HEADER_BYTES + 4) errors.push(message.readInt32LE(HEADER_BYTES));
  return errors;
}

function writeRequest(target: Buffer, type: number, flags: number, family: number): void {
  target.writeUInt32LE(REQUEST_BYTES, 0);
  target.writeUInt16LE(type, 4);
  target.writeUInt16LE(NLM_F_REQUEST | flags, 6);
  target[16] = family;
  target[17] = IPPROTO_TCP;
}

function* messagesOf(answer: Buffer): Generator<{ readonly type: number; readonly message: Buffer }> {
  for (let at = 0; at + HEADER_BYTES <= answer.length; ) {
    const length = answer.readUInt32LE(at);
    if (length < HEADER_BYTES) return;
    yield { type: answer.readUInt16LE(at + 4), message: answer.subarray(at, at + length) };
    at += (length + 3) & ~3;
  }
}

/** 127.0.0.0/8, ::1, and the former written as IPv6. */
function isLoopback(family: number, address: Buffer): boolean {
  if (family === AF_INET) return address[0] === 127;
  const zeros = (from: number, to: number): boolean => address.subarray(from, to).every((byte) => byte === 0);
  if (!zeros(0, 10)) return false;
  if (address[10] === 0xff && address[11] === 0xff) return address[12] === 127;
  return zeros(10, ADDRESS_BYTES - 1) && address[ADDRESS_BYTES - 1] === 1;
}
