import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { createRetirement } from '../../guest/agent/retirement.ts';

function rig(t: TestContext) {
  t.mock.timers.enable({ apis: ['setInterval', 'Date'] });
  const state = { now: 0, alone: true, idle: false, retired: 0, checks: 0 };
  t.mock.method(performance, 'now', () => state.now);
  const retirement = createRetirement({
    isAlone: () => {
      state.checks++;
      return state.alone;
    },
    isIdle: () => state.idle,
    retire: () => state.retired++,
  });
  const pass = (ms: number): void => {
    for (let at = 0; at < ms; at += 1_000) {
      state.now += 1_000;
      t.mock.timers.tick(1_000);
    }
  };
  return { state, retirement, pass };
}

test('an agent retires after it has been idle for a while, without a break', (t) => {
  const { state, retirement, pass } = rig(t);
  retirement.onAlone();
  pass(60_000);
  assert.equal(state.retired, 0, 'it had work');
  state.idle = true;
  pass(4_000);
  state.idle = false;
  pass(2_000);
  state.idle = true;
  pass(5_000);
  assert.equal(state.retired, 0, 'work came in between');
  pass(5_000);
  assert.ok(state.retired > 0);
});

test('one whose host is connected does not retire, and looks no more until it is alone again', (t) => {
  const { state, retirement, pass } = rig(t);
  state.idle = true;
  retirement.onAlone();
  pass(4_000);
  state.alone = false;
  pass(4_000);
  const { checks } = state;
  pass(60_000);
  assert.equal(state.checks, checks, 'no timer runs');
  assert.equal(state.retired, 0);
  state.alone = true;
  retirement.onAlone();
  pass(5_000);
  assert.equal(state.retired, 0, 'its patience begins anew');
  pass(5_000);
  assert.ok(state.retired > 0);
});
