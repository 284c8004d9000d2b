/** The agent's port stays alive through whatever happens to one read or one write. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after } from 'node:test';
import { portWriter } from '../../guest/agent/transport.ts';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-transport-'));
after(() => fs.rmSync(folder, { recursive: true, force: true }));

function fifo(name: string): string {
  const file = path.join(folder, name);
  execFileSync('mkfifo', [file]);
  return file;
}

test('a write that fails although it was said to go through is made again, and the next ones follow', async () => {
  const fd = fs.openSync(fifo('out'), fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
  try {
    const filling = Buffer.alloc(4096);
    let filled = 0;
    try {
      for (;;) filled += fs.writeSync(fd, filling);
    } catch {}
    const writer = portWriter(fd, () => true);
    writer.send(Buffer.from('first'));
    await new Promise((resolve) => setImmediate(resolve));
    for (let left = filled; left > 0; ) left -= fs.readSync(fd, filling, 0, Math.min(left, filling.length), null);
    writer.send(Buffer.from(' second'));
    await writer.flushed();
    const said = Buffer.alloc(64);
    assert.equal(said.toString('latin1', 0, fs.readSync(fd, said)), 'first second');
  } finally {
    fs.closeSync(fd);
  }
});

test('a fault in what a frame starts does not end the reading', async () => {
  const file = fifo('in');
  const program = `
    import fs from 'node:fs';
    import { portTransport } from ${JSON.stringify(path.resolve(import.meta.dirname, '../../guest/agent/transport.ts'))};
    process.on('uncaughtException', () => {});
    const fd = fs.openSync(${JSON.stringify(file)}, fs.constants.O_RDWR);
    portTransport(fd, () => true, {
      onBytes(chunk) {
        process.stdout.write(chunk);
        if (chunk.toString() === 'bad') throw new Error('fault');
        process.kill(process.pid, 'SIGKILL');
      },
      onDisconnect() {},
    });`;
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--input-type=module', '--eval', program],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const port = fs.openSync(file, fs.constants.O_RDWR);
  try {
    fs.writeSync(port, 'bad');
    const [first] = (await once(child.stdout, 'data')) as [Buffer];
    assert.equal(first.toString(), 'bad');
    fs.writeSync(port, 'good');
    const [second] = (await once(child.stdout, 'data')) as [Buffer];
    assert.equal(second.toString(), 'good');
  } finally {
    child.kill('SIGKILL');
    fs.closeSync(port);
  }
});
