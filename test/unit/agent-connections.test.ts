/** What the kernel tells of connections, and what is asked of it: bytes as on amd64 and arm64, both little endian. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { listRequest, readAcknowledgements, readList } from '../../guest/agent/connections.ts';

const AF_INET = 2;
const AF_INET6 = 10;
const DONE = message(3, Buffer.alloc(4));

function message(type: number, body: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + body.length, 0);
  header.writeUInt16LE(type, 4);
  return Buffer.concat([header, body]);
}

/** inet_diag_msg, with an attribute after it. */
function told(family: number, source: number[], destination: number[]): Buffer {
  const body = Buffer.alloc(72 + 5);
  body[0] = family;
  body[1] = 1;
  body.writeUInt16BE(40_000, 4);
  body.writeUInt16BE(443, 6);
  body.set(source, 8);
  body.set(destination, 24);
  body.writeUInt32LE(0xc00c1e, 44);
  return Buffer.concat([message(20, body), Buffer.alloc(3)]);
}

const four = (text: string): number[] => text.split('.').map(Number);
const mapped = (text: string): number[] => [...Array(10).fill(0), 255, 255, ...four(text)];
const six = (...last: number[]): number[] => [...Array(16 - last.length).fill(0), ...last];

test('a list is asked for by family, of the states that have another end', () => {
  const request = listRequest(AF_INET6);
  assert.equal(request.length, 72);
  assert.deepEqual([request.readUInt32LE(0), request.readUInt16LE(4), request.readUInt16LE(6)], [72, 20, 0x301]);
  assert.deepEqual([request[16], request[17]], [AF_INET6, 6]);
  const states = request.readUInt32LE(20);
  const [timeWait, close, listen] = [6, 7, 10];
  for (let state = 1; state <= 12; state++)
    assert.equal((states >> state) & 1, [timeWait, close, listen].includes(state) ? 0 : 1, `state ${state}`);
});

test('what leads out of the machine is to be ended, by its ends and its cookie', () => {
  const requests: Buffer[] = [];
  const answer = Buffer.concat([
    told(AF_INET, four('192.0.2.2'), four('198.51.100.1')),
    told(AF_INET6, mapped('192.0.2.2'), mapped('198.51.100.1')),
    told(AF_INET6, six(0x20, 1), six(0x20, 2)),
  ]);
  assert.equal(readList(answer, requests), 'more');
  assert.equal(readList(DONE, requests), 'done');
  assert.equal(requests.length, 3);
  const [first] = requests as [Buffer];
  assert.deepEqual([first.readUInt32LE(0), first.readUInt16LE(4), first.readUInt16LE(6)], [72, 21, 5]);
  assert.deepEqual([first[16], first[17]], [AF_INET, 6]);
  assert.deepEqual([first.readUInt16BE(24), first.readUInt16BE(26)], [40_000, 443]);
  assert.deepEqual([...first.subarray(28, 32)], four('192.0.2.2'));
  assert.deepEqual([...first.subarray(44, 48)], four('198.51.100.1'));
  assert.equal(first.readUInt32LE(64), 0xc00c1e);
});

for (const [what, family, source, destination] of [
  ['127.0.0.1', AF_INET, four('127.0.0.1'), four('127.0.0.1')],
  ['127.0.1.1', AF_INET, four('127.0.0.1'), four('127.0.1.1')],
  ['::1', AF_INET6, six(1), six(1)],
  ['127.0.0.1 of an IPv6 socket', AF_INET6, mapped('127.0.0.1'), mapped('127.0.0.1')],
] as const) {
  test(`a connection to ${what} stays`, () => {
    const requests: Buffer[] = [];
    assert.equal(readList(told(family, [...source], [...destination]), requests), 'more');
    assert.deepEqual(requests, []);
  });
}

test('a refusal is told from the end of the list; what is cut short is nothing', () => {
  const requests: Buffer[] = [];
  const error = Buffer.alloc(20);
  error.writeInt32LE(-2, 0);
  assert.equal(readList(message(2, error), requests), 'refused');
  assert.equal(readList(message(3, error), requests), 'refused');
  assert.equal(readList(told(AF_INET, four('192.0.2.2'), four('198.51.100.1')).subarray(0, 40), requests), 'more');
  assert.equal(readList(Buffer.alloc(16), requests), 'more');
  assert.deepEqual(requests, []);
  assert.deepEqual(readAcknowledgements(Buffer.concat([message(2, error), message(2, Buffer.alloc(20))])), [-2, 0]);
});
