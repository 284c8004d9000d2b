/** Pictures and tables of the Python program: figures with their charts, images, data frames; and the warm-up. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { type Driver, drive, type Loose, lacks, results, texts } from '../helpers/interpreter-python.ts';

const options = { skip: lacks('IPython', 'matplotlib', 'pandas', 'PIL', 'matplotlib_inline') };
const cwd = fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-'));
const PNG = /^iVBORw0KGgo/;
let python: Driver;
before(async () => {
  if (!options.skip) python = await drive({ cwd, args: ['--warm'] });
});
after(async () => {
  await python?.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

/** The only figure of a cell. */
async function figure(...lines: string[]): Promise<Record<string, Loose>> {
  const events = await python.run(['import matplotlib.pyplot as plt', ...lines, 'plt.show()'].join('\n'));
  const figures = results(events).filter((event) => event.fields.png !== undefined);
  assert.equal(figures.length, 1, JSON.stringify(events).slice(0, 2_000));
  assert.equal(figures[0]!.main, false);
  assert.match(figures[0]!.fields.png, PNG);
  return figures[0]!.fields;
}

test('the warm-up leaves no trace: count 1, empty caches, no names, no files', options, async () => {
  const code = '[Out, In, sorted(k for k in globals() if not k.startswith("_")), repr(_), repr(__)]';
  const events = await python.run(code);
  assert.equal(events[0]!.execution_count, 1);
  const [out, inputs, names, last, beforeLast] = results(events)[0]!.fields.json;
  assert.deepEqual(out, {});
  assert.deepEqual(inputs, ['', code]);
  assert.deepEqual(names, ['In', 'Out', 'exit', 'get_ipython', 'quit']);
  assert.deepEqual([last, beforeLast], ["''", "''"]);
  assert.equal(results(await python.run('import sys; hasattr(sys, "last_traceback")'))[0]!.fields.text, 'False');
  assert.deepEqual(
    fs.readdirSync(cwd).filter((name) => !name.startsWith('.')),
    [],
  );
});

test('line chart', options, async () => {
  const { chart } = await figure(
    'plt.plot([1, 2, 3], [4, 5, 6], label="speed"); plt.plot([1, 2], [0, 1])',
    'plt.title("T"); plt.xlabel("Time (s)"); plt.ylabel("Speed [m/s]")',
  );
  assert.equal(chart.type, 'line');
  assert.equal(chart.title, 'T');
  assert.deepEqual([chart.x_label, chart.x_unit, chart.y_label, chart.y_unit], ['Time (s)', 's', 'Speed [m/s]', 'm/s']);
  assert.deepEqual([chart.x_scale, chart.y_scale], ['linear', 'linear']);
  assert.equal(chart.x_ticks.length, chart.x_tick_labels.length);
  assert.deepEqual(chart.elements, [
    {
      label: 'speed',
      points: [
        [1, 4],
        [2, 5],
        [3, 6],
      ],
    },
    {
      label: 'Line 2',
      points: [
        [1, 0],
        [2, 1],
      ],
    },
  ]);
});

test('dates and categories on the axes, and a logarithmic one', options, async () => {
  const dates = await figure(
    'import datetime as dt, numpy as np, pandas as pd',
    'plt.plot([dt.date(2024, 1, 1), dt.date(2024, 1, 2)], [1, 10]); plt.yscale("log")',
  );
  assert.equal(dates.chart.x_scale, 'datetime');
  assert.equal(dates.chart.y_scale, 'log');
  assert.deepEqual(dates.chart.elements[0].points, [
    ['2024-01-01', 1],
    ['2024-01-02', 10],
  ]);
  assert.match(dates.chart.x_ticks[0], /^202[34]-\d\d-\d\dT/);
  const stamps = await figure('plt.plot(pd.date_range("2024-01-01", periods=2), [1, 2])');
  assert.match(stamps.chart.elements[0].points[0][0], /^2024-01-01T00:00:00/);
  for (const [freq, second] of [
    ['D', '2024-01-08T00:00:00'],
    ['W', '2024-01-14T00:00:00'],
    ['MS', '2024-02-01T00:00:00'],
  ] as const) {
    const start = freq === 'MS' ? '2024-01-01' : '2024-01-07';
    const index = `pd.date_range("${start}", periods=2, freq="${freq}")`;
    const series = await figure(`pd.DataFrame({"s": [1, 2]}, index=${index}).plot(ax=plt.gca())`);
    assert.equal(series.chart.x_scale, 'datetime');
    assert.deepEqual(series.chart.elements[0], {
      label: 's',
      points: [
        [`${start}T00:00:00`, 1],
        [second, 2],
      ],
    });
  }
  const names = await figure('plt.plot(["a", "b"], [1, 2])');
  assert.equal(names.chart.x_scale, 'categorical');
  assert.deepEqual(names.chart.elements[0].points, [
    ['a', 1],
    ['b', 2],
  ]);
});

test('scatter chart', options, async () => {
  const { chart } = await figure('plt.scatter([1, 2], [3, 4], label="A"); plt.scatter([5], [6], label="B")');
  assert.equal(chart.type, 'scatter');
  assert.deepEqual(chart.elements, [
    {
      label: 'A',
      points: [
        [1, 3],
        [2, 4],
      ],
    },
    { label: 'B', points: [[5, 6]] },
  ]);
});

test('bar charts: groups, horizontal, beside each other', options, async () => {
  const plain = await figure('plt.bar(["x", "y"], [1, 2]); plt.xlabel("Name"); plt.ylabel("Count")');
  assert.deepEqual(plain.chart.elements, [
    { label: 'x', group: 'Group 1', value: 1 },
    { label: 'y', group: 'Group 1', value: 2 },
  ]);
  const lying = await figure('plt.barh(["x", "y"], [1, 2], label="g"); plt.xlabel("Count"); plt.ylabel("Name")');
  assert.deepEqual([lying.chart.x_label, lying.chart.y_label], ['Name', 'Count']);
  assert.deepEqual(lying.chart.elements[1], { label: 'y', group: 'g', value: 2 });
  const grouped = await figure(
    'at = np.arange(2)',
    'plt.bar(at - 0.2, [1, 2], 0.4, label="old"); plt.bar(at + 0.2, [3, 4], 0.4, label="new"); plt.xticks(at, ["A", "B"])',
  );
  assert.deepEqual(
    grouped.chart.elements.map((bar: Loose) => `${bar.label} ${bar.group} ${bar.value}`),
    ['A old 1', 'B old 2', 'A new 3', 'B new 4'],
  );
});

test('pie and box charts', options, async () => {
  const pie = await figure('plt.pie([1, 3], labels=["A", "B"]); plt.title("P")');
  assert.equal(pie.chart.type, 'pie');
  assert.deepEqual(
    pie.chart.elements.map((part: Loose) => [part.label, Math.round(part.angle), part.radius]),
    [
      ['A', 90, 1],
      ['B', 270, 1],
    ],
  );
  for (const more of ['', ', patch_artist=True', ', vert=False']) {
    const box = await figure(`plt.boxplot([[1, 2, 3, 4, 100], [1, 2]], labels=["A", "B"]${more})`);
    assert.equal(box.chart.type, 'box_and_whisker');
    assert.deepEqual(box.chart.elements[0], {
      label: 'A',
      min: 1,
      first_quartile: 2,
      median: 3,
      third_quartile: 4,
      max: 4,
      outliers: [100],
    });
  }
});

test('several axes make a superchart; a colour bar is none', options, async () => {
  const { chart } = await figure('f, (a, b) = plt.subplots(1, 2); a.plot([1, 2]); b.bar(["x"], [1]); f.suptitle("S")');
  assert.equal(chart.type, 'superchart');
  assert.equal(chart.title, 'S');
  assert.deepEqual(
    chart.elements.map((it: Loose) => it.type),
    ['line', 'bar'],
  );
  const coloured = await figure('plt.scatter([1, 2], [3, 4], c=[1, 2]); plt.colorbar()');
  assert.equal(coloured.chart.type, 'scatter');
});

test('a figure that cannot be read has an empty chart; mixed kinds are unknown', options, async () => {
  const blank = results(await python.run('plt.figure()')).at(-1)!;
  assert.deepEqual(blank.fields.chart, {});
  const mixed = await figure('plt.plot([1, 2]); plt.scatter([1], [2]); plt.title("M")');
  assert.equal(mixed.chart.type, 'unknown');
  const image = await figure('plt.imshow([[1, 2], [3, 4]])');
  assert.equal(image.chart.type, 'unknown');
});

test('show() gives one result per figure; what is open at the end of a cell comes once', options, async () => {
  const shown = await python.run('plt.plot([1]); plt.show(); plt.plot([2]); plt.show()');
  assert.equal(results(shown).filter((event) => event.fields.png).length, 2);
  const open = await python.run('plt.plot([1]);');
  assert.equal(results(open).filter((event) => event.fields.png).length, 1);
  const after = await python.run('1');
  assert.equal(results(after).filter((event) => event.fields.png).length, 0);
});

test('data frames carry data, text and html', options, async () => {
  const [frame] = results(
    await python.run(
      'import pandas as pd\npd.DataFrame({"n": [1, None], "t": pd.to_datetime(["2024-01-01", None]), 3: ["x", {"k": {1}}]})',
    ),
  );
  assert.deepEqual(frame!.fields.data, { n: [1, null], t: ['2024-01-01T00:00:00', null], 3: ['x', "{'k': {1}}"] });
  assert.match(frame!.fields.html, /<table/);
  assert.match(frame!.fields.text, /2024-01-01/);
});

test('PIL images: show() and save() display; saving a figure does not', options, async () => {
  const events = await python.run(
    'from PIL import Image\nimage = Image.new("RGB", (2, 2))\nimage.save("a.png"); image.show()\nimage',
  );
  assert.equal(results(events).length, 3);
  assert.ok(results(events).every((event) => PNG.test(event.fields.png)));
  assert.ok(fs.existsSync(path.join(cwd, 'a.png')));
  const saved = await python.run('f = plt.figure(); plt.plot([1, 2]); plt.savefig("b.png"); plt.close(f)');
  assert.equal(results(saved).length, 0);
});

test('numpy values become JSON; a reseed reaches numpy', options, async () => {
  const [value] = results(await python.run('import numpy as np\n{"a": np.arange(3), np.int64(1): np.float32(0.5)}'));
  assert.deepEqual(value!.fields.json, { a: [0, 1, 2], 1: 0.5 });
  await python.run('np.random.seed(1)');
  const expected = results(await python.run('float(np.random.rand())'))[0]!.fields.text;
  await python.run('np.random.seed(1)');
  python.send({ op: 'reseed', id: 'r', entropy: Buffer.alloc(32, 7).toString('base64') });
  assert.equal((await python.next()).type, 'ack');
  assert.notEqual(results(await python.run('float(np.random.rand())'))[0]!.fields.text, expected);
});

test('a structure that is too large is named and left out; its text is there', options, async () => {
  const events = await python.run('["x" * 1000] * 10_000');
  assert.match(texts(events, 'stderr'), /json .*left out/);
  assert.ok(results(events)[0]!.fields.text.length > 100);
});
