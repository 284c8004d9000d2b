/** Points of a sandbox: in order, bounded, thinned where they are old, told only when all of them is known. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { MetricSeries, POINTS_MOST } from '../../src/node/metric-series.ts';

const room = (memUsed: number) => ({ memUsed, memTotal: 4, memCache: 2, diskUsed: 5, diskTotal: 10 });
const point = (atMs: number) => ({ atMs, cpuCount: 2, cpuUsedPct: 1.5 });

test('a point comes back as it was', () => {
  const series = new MetricSeries();
  series.add({ ...point(7), room: room(3) });
  const whole = { ...point(7), ...room(3) };
  assert.deepEqual(series.between(0, 100, 100), [whole]);
  assert.deepEqual(series.last, whole);
  assert.deepEqual(series.between(7, 7, 100), [whole], 'both ends are included');
  assert.deepEqual([series.between(0, 6, 100), series.between(8, 100, 100)], [[], []]);
});

test('points without a room are told once it is known, and it is theirs', () => {
  const series = new MetricSeries();
  series.add(point(1));
  series.add(point(2));
  assert.equal(series.whole, false);
  assert.deepEqual(series.between(0, 9, 9), []);
  assert.equal(series.last?.atMs, undefined);
  series.add({ ...point(3), room: room(30) });
  series.add(point(4));
  assert.deepEqual(
    series.between(0, 9, 9).map(({ atMs, memUsed }) => [atMs, memUsed]),
    [
      [1, 30],
      [2, 30],
      [3, 30],
    ],
  );
  series.fill(room(40));
  assert.equal(series.last?.memUsed, 40);
  assert.equal(series.whole, true);
});

test('what is too old is told to nobody', () => {
  const week = 7 * 24 * 3_600_000;
  const series = new MetricSeries();
  for (const atMs of [0, 1, week]) series.add({ ...point(atMs), room: room(1) });
  assert.deepEqual(
    series.between(0, week, week + 1).map(({ atMs }) => atMs),
    [1, week],
  );
});

test('however many there are: bounded, in order, the newest whole, the oldest still there', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 6_000 }), fc.integer({ min: 0, max: 50 }), (count, unknown) => {
      const series = new MetricSeries();
      for (let at = 1; at <= count; at++)
        series.add({ ...point(at), ...(at > count - unknown ? {} : { room: room(at) }) });
      assert.ok(series.size <= POINTS_MOST);
      const told = series.between(0, count, count);
      assert.equal(told.length, Math.max(0, series.size - Math.min(unknown, count)));
      series.fill(room(count));
      const all = series.between(0, count, count).map(({ atMs }) => atMs);
      assert.deepEqual(
        all,
        [...all].sort((a, b) => a - b),
      );
      assert.equal(all[0], 1);
      const newest = Math.min(count, POINTS_MOST / 4);
      assert.deepEqual(
        all.slice(-newest),
        Array.from({ length: newest }, (_, index) => count - newest + 1 + index),
      );
      for (const { atMs, memUsed } of series.between(0, count, count))
        assert.equal(memUsed, atMs > count - unknown ? count : atMs);
    }),
    { numRuns: 60 },
  );
});
