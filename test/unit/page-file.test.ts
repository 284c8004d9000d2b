/** The format of a checkpoint's pages: what is written comes back, and nothing else is taken for it. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import fc from 'fast-check';
import { isCoppiceError } from '../../src/contract/errors.ts';
import {
  completePageFile,
  dataAt,
  openPageFile,
  PAGE_BYTES,
  type PageRun,
  PIECE_BYTES,
} from '../../src/isolation/microvm/page-file.ts';

const MEMORY_BYTES = 16 * 2 ** 20;
const MEMORY_PAGES = MEMORY_BYTES / PAGE_BYTES;
let folder: string;
let path: string;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cppf-'));
  path = join(folder, 'pages');
});

after(() => rm(folder, { recursive: true, force: true }));

/** Gaps and lengths, one behind the other, to runs within the memory. */
const someRuns = fc
  .array(fc.tuple(fc.nat(300), fc.integer({ min: 1, max: 600 })), { maxLength: 40 })
  .map((parts): readonly PageRun[] => {
    const runs: PageRun[] = [];
    let next = 0;
    for (const [gap, count] of parts) {
      if (next + gap + count > MEMORY_PAGES) break;
      runs.push({ first: next + gap, count });
      next += gap + count;
    }
    return runs;
  });

async function write(runs: readonly PageRun[], data?: Buffer): Promise<Buffer> {
  const bytes = data ?? randomBytes(runs.reduce((sum, { count }) => sum + count, 0) * PAGE_BYTES);
  const file = await open(path, 'w+');
  try {
    await file.write(bytes, 0, bytes.length, dataAt(runs.length));
    await completePageFile(file, MEMORY_BYTES, runs);
  } finally {
    await file.close();
  }
  return bytes;
}

async function readBack(): Promise<{ readonly memory: Buffer; readonly pages: number; readonly largest: number }> {
  const file = await openPageFile(path, MEMORY_BYTES);
  try {
    const memory = Buffer.alloc(MEMORY_BYTES);
    let largest = 0;
    for await (const { first, bytes } of file.read()) {
      bytes.copy(memory, first * PAGE_BYTES);
      largest = Math.max(largest, bytes.length);
    }
    return { memory, pages: file.pages, largest };
  } finally {
    await file.close();
  }
}

test('the pages of any runs come back where they were, in pieces of bounded size', async () => {
  await fc.assert(
    fc.asyncProperty(someRuns, async (runs) => {
      const data = await write(runs);
      const expected = Buffer.alloc(MEMORY_BYTES);
      let at = 0;
      for (const { first, count } of runs) {
        data.copy(expected, first * PAGE_BYTES, at, at + count * PAGE_BYTES);
        at += count * PAGE_BYTES;
      }
      const { memory, pages, largest } = await readBack();
      assert.ok(memory.equals(expected));
      assert.equal(pages * PAGE_BYTES, data.length);
      assert.ok(largest <= PIECE_BYTES);
    }),
    { numRuns: 60 },
  );
});

test('a machine that owns nothing, and one that owns everything', async () => {
  await write([]);
  assert.equal((await readBack()).pages, 0);
  await write([{ first: 0, count: MEMORY_PAGES }]);
  assert.equal((await readBack()).pages, MEMORY_PAGES);
});

const refused = (message: RegExp, memoryBytes = MEMORY_BYTES) =>
  assert.rejects(openPageFile(path, memoryBytes), { code: 'checkpoint_corrupt', message });

test('a file that is cut anywhere is refused', async () => {
  await write([
    { first: 3, count: 2 },
    { first: 9, count: 1 },
  ]);
  const whole = await readFile(path);
  for (const bytes of [0, 10, 4095, 4096, 4100, 8192, whole.length - 4096, whole.length - 1]) {
    await writeFile(path, whole.subarray(0, bytes));
    await refused(/is shorter than|has \d+ bytes instead of/);
  }
  await writeFile(path, Buffer.concat([whole, Buffer.alloc(1)]));
  await refused(/bytes instead of/);
});

test('a file without header, of another kind, version, memory or page size is refused by name', async () => {
  const runs = [{ first: 1, count: 1 }];
  const spoil = async (at: number, value: number) => {
    await write(runs);
    const file = await open(path, 'r+');
    await file.write(Buffer.from([value]), 0, 1, at);
    await file.close();
  };
  await spoil(0, 0);
  await refused(/no page file, or was not written to its end/);
  await spoil(8, 9);
  await refused(/version 9/);
  await spoil(13, 1);
  await refused(/another size/);
  await spoil(4096, 2);
  await refused(/checksum/);
  await write(runs);
  await refused(/memory of another size/, 2 * MEMORY_BYTES);
  await rm(path);
  await refused(/cannot be opened/);
});

test('runs that overlap, are empty, out of order or out of bounds are refused, whatever their checksum', async () => {
  for (const runs of [
    [{ first: 0, count: 0 }],
    [
      { first: 5, count: 2 },
      { first: 6, count: 1 },
    ],
    [
      { first: 5, count: 1 },
      { first: 4, count: 1 },
    ],
    [{ first: MEMORY_PAGES, count: 1 }],
    [{ first: MEMORY_PAGES - 1, count: 2 }],
    [{ first: 2 ** 32 - 1, count: 1 }],
  ]) {
    await write(runs);
    await refused(/out of order or bounds/);
  }
  await write(Array.from({ length: MEMORY_PAGES + 1 }, (_, first) => ({ first, count: 1 })));
  await refused(/more runs than there are pages/);
});

test('a file that becomes shorter while it is read says so', async () => {
  await write([{ first: 0, count: MEMORY_PAGES }]);
  const file = await openPageFile(path, MEMORY_BYTES);
  try {
    const reading = file.read();
    await reading.next();
    await truncate(path, PIECE_BYTES);
    await assert.rejects(
      async () => {
        for await (const _pages of reading);
      },
      { code: 'checkpoint_corrupt', message: /become shorter/ },
    );
  } finally {
    await file.close();
  }
});

test('a read that is given up ends', async () => {
  await write([{ first: 0, count: MEMORY_PAGES }]);
  const file = await openPageFile(path, MEMORY_BYTES);
  try {
    await assert.rejects(file.read(AbortSignal.abort()).next(), { name: 'AbortError' });
  } finally {
    await file.close();
  }
});

/** Opens and reads whatever is there; true if it passed for a page file. */
async function survives(): Promise<boolean> {
  try {
    await readBack();
    return true;
  } catch (error) {
    assert.ok(isCoppiceError(error, 'checkpoint_corrupt'), String(error));
    return false;
  }
}

test('arbitrary bytes are refused and do no harm', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 3 * PAGE_BYTES, size: 'max' }), fc.boolean(), async (bytes, magic) => {
      await writeFile(path, magic ? Buffer.concat([Buffer.from('CPCPAGES'), bytes]) : bytes);
      assert.equal(await survives(), false);
    }),
    { numRuns: 300 },
  );
});

test('a page file with some bytes changed is refused, or is one', async () => {
  await fc.assert(
    fc.asyncProperty(
      someRuns.filter((runs) => runs.length > 0),
      fc.array(fc.tuple(fc.nat(4096 + 40 * 8), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      async (runs, changes) => {
        const small = runs.map(({ first }) => ({ first, count: 1 }));
        await write(small);
        const bytes = await readFile(path);
        const before = Buffer.from(bytes);
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        await writeFile(path, bytes);
        // What is between header and table, and behind the table, is nobody's.
        const same = (from: number, to: number) => bytes.compare(before, from, to, from, to) === 0;
        assert.equal(await survives(), same(0, 40) && same(PAGE_BYTES, PAGE_BYTES + 8 * small.length));
      },
    ),
    { numRuns: 200 },
  );
});

test('a header that promises much takes no memory for it', async () => {
  await fc.assert(
    fc.asyncProperty(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.nat(2 ** 31), async (pages, runs) => {
      await write([{ first: 0, count: 1 }]);
      const bytes = await readFile(path);
      bytes.writeBigUInt64LE(pages, 24);
      bytes.writeUInt32LE(runs, 32);
      await writeFile(path, bytes);
      const heap = process.memoryUsage().external;
      await survives();
      assert.ok(process.memoryUsage().external - heap < 64 * 2 ** 20);
    }),
    { numRuns: 100 },
  );
});
