/** The compiled rules, by structure: what is checked before what, and what may stand in them. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { fabricConfig, vethAddresses } from '../../src/network/nftables/config.ts';
import { hostRuleset } from '../../src/network/nftables/host-rules.ts';
import {
  addSubjects,
  grant,
  namespaceRuleset,
  openService,
  removeSubjects,
  revoke,
} from '../../src/network/nftables/ruleset.ts';
import { HARD_DENIES } from '../../src/network/policy.ts';

const subject = { port: 'cp5', address: '10.1.1.5', mark: 9 };
const rules = namespaceRuleset([subject]);
const host = hostRuleset(fabricConfig('a1'), vethAddresses(0x0a000000), false);

function chain(text: string, name: string): string[] {
  const body = new RegExp(`^  chain ${name} \\{\\n([^}]*(?:\\{[^}]*\\}[^}]*)*?)^  \\}`, 'm').exec(text)?.[1];
  assert.ok(body, `no chain ${name}`);
  return body.trim().split(/\s*\n\s*/);
}

const order = (lines: string[], ...parts: string[]) => {
  const places = parts.map((part) =>
    lines.findIndex((line) => line.startsWith(part) || (line.includes(part) && !part.startsWith('iifname'))),
  );
  assert.ok(!places.includes(-1), `missing: ${parts[places.indexOf(-1)]} in\n${lines.join('\n')}`);
  assert.deepEqual(
    places,
    [...places].sort((a, b) => a - b),
    lines.join('\n'),
  );
};

test('every base chain but NAT drops what it does not accept', () => {
  const policies = [...rules.matchAll(/type filter hook \w+ priority \w+\n\s+policy (\w+)/g)].map((match) => match[1]);
  assert.deepEqual(policies, ['drop', 'drop', 'drop', 'drop', 'drop']);
});

test('hard denies come before policy, policy before established flows, and all before NAT', () => {
  const established = 'iifname . ct mark @flows ct state established';
  order(chain(rules, 'forward'), 'iifname "up0" drop', '@denied', 'oifname != "up0"', `${established},related accept`);
  order(chain(rules, 'forward'), '@denied', 'ct mark set iifname map @internet', '!= @flows goto refuse');
  assert.equal(chain(rules, 'forward').at(-1), 'accept');
  // No established flow passes without the mark of a grant in force.
  for (const line of chain(rules, 'forward').filter((line) => line.includes('established')))
    assert.match(line, /ct mark @flows/);
  assert.doesNotMatch(rules, /dnat/);
});

test('every hard deny is in both tables', () => {
  for (const range of HARD_DENIES) {
    assert.ok(rules.includes(range), range);
    assert.ok(host.includes(range), range);
  }
});

test('the whole is replaced in one transaction', () => {
  for (const [text, table] of [
    [rules, 'inet coppice'],
    [rules, 'arp coppice'],
    [host, 'inet coppice_a1'],
  ] as const)
    order(text.split('\n'), `table ${table}`, `delete table ${table}`, `table ${table} {`);
});

test('the host table judges nothing but our veth', () => {
  for (const name of ['prerouting', 'input', 'forward', 'postrouting'])
    assert.match(chain(host, name).find((line) => !/^(type|policy)/.test(line))!, /"cpv-a1"/, name);
  assert.doesNotMatch(host, /policy drop/);
  order(chain(host, 'prerouting'), 'iifname != "cpv-a1" accept', 'nfproto', 'saddr', '@denied', 'fib daddr type');
});

test('only with the guard does the host table forward nothing for others', () => {
  assert.doesNotMatch(host, /forwarding_was_off/);
  const guarded = hostRuleset(fabricConfig('a1'), vethAddresses(0x0a000000), true);
  assert.equal(chain(guarded, 'forward').at(-1), 'goto forwarding_was_off');
  assert.equal(chain(guarded, 'forwarding_was_off').at(-1), 'drop');
});

test('a sandbox without a grant is known but not let out', () => {
  const lines = addSubjects([{ ...subject, mark: 0 }]);
  assert.deepEqual(lines, [
    'add element inet coppice sources { "cp5" . 10.1.1.5 }',
    'add element arp coppice sources { "cp5" . 10.1.1.5 }',
  ]);
});

test('revoke undoes grant, remove undoes add, element by element', () => {
  const undo = (line: string) => line.replace('add', 'delete');
  assert.deepEqual(revoke([subject]), grant([subject]).map(undo));
  assert.deepEqual(removeSubjects([subject]).sort(), addSubjects([subject]).map(undo).sort());
  assert.deepEqual(addSubjects([]), []);
});

test('what the host serves is reached by those that are told to have it, at the gateway alone', () => {
  const served = { ...subject, served: true };
  assert.deepEqual(openService([served]), ['add element inet coppice served { "cp5" }']);
  assert.ok(addSubjects([served]).includes(openService([served])[0]!));
  assert.ok(!addSubjects([subject]).some((line) => line.includes('served')));
  assert.deepEqual(chain(rules, 'input').slice(2), [
    'iifname @served ip daddr 169.254.1.1 tcp dport 2049 goto service',
  ]);
});

test('several sandboxes take one line a set', () => {
  assert.equal(addSubjects([subject, { port: 'cp6', address: '10.1.1.6', mark: 10 }]).length, 4);
});

test('nothing but port names, addresses and marks gets into a rule', () => {
  const evil = [
    'cp1" }; flush ruleset; add element x y { "',
    'cp',
    'cp01',
    'cp1\n',
    'eth0',
    'up0',
    'cp12345678901',
    'cp-1',
    '',
  ];
  for (const port of evil) assert.throws(() => namespaceRuleset([{ ...subject, port }]), /not a port name/, port);
  for (const address of ['', '10.1.1.5/0', '10.1.1.5 }', '::1', '10.1.1'])
    assert.throws(() => addSubjects([{ ...subject, address }]), /not an address/, address);
  for (const mark of [0.5, -1, Number.NaN, 2 ** 31])
    assert.throws(() => addSubjects([{ ...subject, mark }]), /not a mark/);
});
