/** A body that is too large is refused at once, and who goes on sending still gets to read why. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import test from 'node:test';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const api = await serveAPI(createFakeNode());
test.after(api.close);

const CHUNK = Buffer.alloc(64 * 1024, 'x');
const CHUNKS = 200;

for (const [name, header, framed] of [
  ['of a length that is told', `content-length: ${CHUNKS * CHUNK.length}`, (chunk: Buffer) => [chunk]],
  [
    'in chunks',
    'transfer-encoding: chunked',
    (chunk: Buffer) => [Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from('\r\n')],
  ],
] as const)
  test(`a body ${name}`, { timeout: 60_000 }, async () => {
    const socket = connect(api.port, '127.0.0.1');
    await once(socket, 'connect');
    let said = '';
    let fault: Error | undefined;
    socket.on('data', (bytes) => {
      said += bytes.toString('latin1');
    });
    socket.on('error', (error) => {
      fault = error;
    });
    socket.write(`POST /v2/sandboxes HTTP/1.1\r\nhost: x\r\nx-api-key: ${api.key}\r\n${header}\r\n\r\n`);
    for (let i = 0; i < CHUNKS && !fault; i++)
      for (const part of framed(CHUNK))
        if (!socket.write(part)) await Promise.race([once(socket, 'drain'), once(socket, 'close')]);
    if (header.startsWith('transfer')) socket.write('0\r\n\r\n');
    // The connection is as good as before.
    socket.write('GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    await once(socket, 'close');
    assert.equal(fault, undefined);
    assert.match(said, /^HTTP\/1\.1 413 /);
    assert.match(said, /HTTP\/1\.1 20[04] /);
  });
