/**
 * Every member that a client can send in each body: it has its effect, or it is refused by name. The lists are the
 * contract's; a member that a schema knows and this table does not, or the other way round, fails.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { z } from 'zod';
import * as requests from '../../src/contract/e2b/requests.ts';
import { type CallOptions, createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const node = createFakeNode();
const api = await serveAPI(node);
test.after(api.close);

const admin = { key: null, headers: { 'x-admin-token': api.adminToken } };
const person = {
  key: null,
  headers: {
    authorization: `Bearer ${api.store.tokens.create({ teamIDs: [api.teamID], name: 'x' }).token}`,
    'x-team-id': api.teamID,
  },
};
const created = () => node.requests.at(-1)!;

interface Sent {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: its shape was checked against the contract's schema before a test sees it
  readonly json: any;
  readonly sandboxID: string;
}

type Member = {
  /** As it is sent, or made of the sandbox that it is sent about. */
  readonly value: unknown;
  /** Other members that it needs. */
  readonly beside?: Readonly<Record<string, unknown>>;
} & ({ readonly effect: (sent: Sent) => unknown; readonly expected: unknown } | { readonly refused: RegExp });

interface Body {
  readonly name: string;
  readonly schema: z.ZodType;
  /** `{id}` is a sandbox made for this member. */
  readonly ask: `${string} ${string}`;
  readonly options?: CallOptions;
  /** What the sandbox is before. */
  readonly state?: 'running' | 'paused';
  readonly required?: Readonly<Record<string, unknown>>;
  readonly members: Readonly<Record<string, Member>>;
  /** Members that the contract does not know. */
  readonly unknown: 'ignored' | 'refused';
}

const unsupported = (name: string): RegExp => new RegExp(`^${name.replace('.', '\\.')} is not supported`);
const wish = () => node.wishes.at(-1);
const endsIn = async ({ sandboxID }: Sent): Promise<number> => {
  const { json } = await api.call('GET', `/sandboxes/${sandboxID}`);
  return Math.round((Date.parse(json.endAt) - Date.now()) / 10_000) * 10;
};

const internetOf = async ({ sandboxID }: Sent): Promise<boolean> =>
  (await api.call('GET', `/sandboxes/${sandboxID}`)).json.allowInternetAccess;

const network: Body['members'] = {
  allowPublicTraffic: {
    value: false,
    effect: ({ json }) => [created().network.publicTraffic, typeof json.trafficAccessToken],
    expected: [false, 'string'],
  },
  allowOut: { value: ['1.1.1.1'], refused: unsupported('network.allowOut') },
  denyOut: { value: ['0.0.0.0/0'], effect: () => created().network, expected: { allowInternetAccess: false } },
  egressProxy: { value: { address: 'p:1' }, refused: unsupported('network.egressProxy') },
  maskRequestHost: {
    value: 'x.test:$' + '{PORT}',
    effect: () => created().network.maskRequestHost,
    expected: 'x.test:$' + '{PORT}',
  },
  rules: { value: { 'a.test': [] }, refused: unsupported('network.rules') },
  httpsPorts: { value: [8443], refused: unsupported('network.httpsPorts') },
};

const newSandbox: Body['members'] = {
  templateID: { value: 'base-jail', effect: () => created().template, expected: 'base-jail' },
  timeout: { value: 77, effect: () => created().timeoutSeconds, expected: 77 },
  autoPause: { value: true, effect: () => created().onTimeout, expected: 'pause' },
  autoPauseMemory: {
    value: false,
    beside: { autoPause: true },
    effect: () => created().pauseMemory,
    expected: false,
  },
  autoResume: {
    value: { enabled: true },
    beside: { autoPause: true },
    effect: () => created().autoResume,
    expected: true,
  },
  allow_internet_access: {
    value: false,
    effect: () => created().network.allowInternetAccess,
    expected: false,
  },
  network: {
    value: { denyOut: ['0.0.0.0/0'] },
    effect: () => created().network.allowInternetAccess,
    expected: false,
  },
  metadata: { value: { a: 'b' }, effect: () => ({ ...created().metadata }), expected: { a: 'b' } },
  envVars: { value: { A: 'b' }, effect: () => ({ ...created().envVars }), expected: { A: 'b' } },
  mcp: { value: {}, refused: unsupported('mcp') },
  iam: { value: { tokens: { t: { audience: 'a', tokenType: 'b' } } }, refused: unsupported('iam') },
  volumeMounts: {
    value: [{ name: 'v', path: '/v' }],
    effect: () => created().volumeMounts,
    expected: [{ name: 'v', path: '/v' }],
  },
};

const connect: Body['members'] = {
  timeout: { value: 50, effect: endsIn, expected: 50 },
  memory: { value: false, effect: () => (wish() as { memory?: boolean }).memory, expected: false },
};
const name: Body['members'] = { name: { value: 'given', effect: ({ json }) => json.name, expected: 'given' } };
const secret: Body['members'] = {
  value: {
    value: 'hidden',
    effect: ({ json }) => api.store.secrets.reveal(api.teamID, json.secretID),
    expected: 'hidden',
  },
  metadata: { value: { a: 'b' }, effect: ({ json }) => json.metadata, expected: { a: 'b' } },
};
const ofKey = `/api-keys/${api.store.keys.create({ teamID: api.teamID, name: 'to rename' }).view.keyID}`;

const BODIES: readonly Body[] = [
  {
    name: 'create v1',
    schema: requests.newSandboxV1,
    ask: 'POST /sandboxes',
    required: { templateID: 'base' },
    members: { ...newSandbox, secure: { value: true, effect: () => created().secure, expected: true } },
    unknown: 'ignored',
  },
  {
    name: 'create v2',
    schema: requests.newSandboxV2,
    ask: 'POST /v2/sandboxes',
    required: { templateID: 'base' },
    members: newSandbox,
    unknown: 'refused',
  },
  {
    name: 'connect v1',
    schema: requests.connectSandboxV1,
    ask: 'POST /sandboxes/{id}/connect',
    state: 'paused',
    required: { timeout: 30 },
    members: connect,
    unknown: 'ignored',
  },
  {
    name: 'connect v2',
    schema: requests.connectSandboxV2,
    ask: 'POST /v2/sandboxes/{id}/connect',
    state: 'paused',
    members: connect,
    unknown: 'refused',
  },
  {
    name: 'pause',
    schema: requests.sandboxPause,
    ask: 'POST /sandboxes/{id}/pause',
    members: { memory: { value: false, effect: wish, expected: { memory: false } } },
    unknown: 'ignored',
  },
  {
    name: 'resume',
    schema: requests.sandboxResume,
    ask: 'POST /sandboxes/{id}/resume',
    state: 'paused',
    members: { ...connect, autoPause: { value: true, refused: unsupported('autoPause') } },
    unknown: 'ignored',
  },
  {
    name: 'fork',
    schema: requests.sandboxFork,
    ask: 'POST /sandboxes/{id}/fork',
    members: {
      timeout: {
        value: 50,
        effect: ({ json }) => endsIn({ status: 0, json: null, sandboxID: json[0].sandbox.sandboxID }),
        expected: 50,
      },
      count: { value: 3, effect: ({ json }) => json.length, expected: 3 },
    },
    unknown: 'ignored',
  },
  {
    name: 'rollback',
    schema: requests.sandboxRollback,
    ask: 'POST /sandboxes/{id}/rollback',
    members: {
      snapshotID: {
        value: async (sandboxID: string) =>
          (await api.call('POST', `/sandboxes/${sandboxID}/snapshots`)).json.snapshotID,
        effect: ({ json, sandboxID }) => json.sandboxID === sandboxID,
        expected: true,
      },
    },
    unknown: 'refused',
  },
  {
    name: 'snapshot',
    schema: requests.sandboxSnapshot,
    ask: 'POST /sandboxes/{id}/snapshots',
    members: { name: { value: 'given:tag', effect: ({ json }) => json.names, expected: ['given:tag'] } },
    unknown: 'ignored',
  },
  {
    name: 'network',
    schema: requests.sandboxNetwork,
    ask: 'PUT /sandboxes/{id}/network',
    members: {
      allow_internet_access: { value: false, effect: internetOf, expected: false },
      denyOut: { value: ['0.0.0.0/0'], effect: internetOf, expected: false },
      allowOut: network.allowOut!,
      egressProxy: network.egressProxy!,
      rules: network.rules!,
    },
    unknown: 'refused',
  },
  {
    name: 'timeout',
    schema: requests.sandboxTimeout,
    ask: 'POST /sandboxes/{id}/timeout',
    required: { timeout: 60 },
    members: { timeout: { value: 50, effect: endsIn, expected: 50 } },
    unknown: 'ignored',
  },
  {
    name: 'refresh',
    schema: requests.sandboxRefresh,
    ask: 'POST /sandboxes/{id}/refreshes',
    members: { duration: { value: 600, effect: endsIn, expected: 600 } },
    unknown: 'ignored',
  },
  ...(
    [
      ['API key', 'POST /api-keys', person],
      ['API key rename', `PATCH ${ofKey}`, person],
      ['API key of the operator', `POST /admin/teams/${api.teamID}/api-keys`, admin],
      ['access token', 'POST /access-tokens', person],
    ] as const
  ).map(
    ([what, ask, options]): Body => ({
      name: what,
      schema: requests.named,
      ask,
      options,
      required: { name: 'x' },
      members: name,
      unknown: 'ignored',
    }),
  ),
  {
    name: 'secret',
    schema: requests.newSecret,
    ask: 'POST /secrets',
    required: { name: (sandboxID: string) => `of-${sandboxID}`, value: 'x' },
    members: { ...name, ...secret },
    unknown: 'ignored',
  },
  {
    name: 'secret version',
    schema: requests.secretUpdate,
    ask: `POST /secrets/${api.store.secrets.create(api.teamID, 'changed', { value: 'x' }).secretID}`,
    required: { value: 'x' },
    members: secret,
    unknown: 'ignored',
  },
  {
    name: 'volume',
    schema: requests.newVolume,
    ask: 'POST /volumes',
    required: { name: (sandboxID: string) => `of-${sandboxID}` },
    members: name,
    unknown: 'ignored',
  },
  {
    name: 'node',
    schema: requests.nodeStatusChange,
    ask: 'POST /nodes/local',
    options: admin,
    required: { status: 'ready' },
    members: {
      status: { value: 'ready', effect: () => api.store.nodes.get('local'), expected: 'ready' },
      clusterID: { value: 'another', refused: /^there is no node local$/ },
    },
    unknown: 'ignored',
  },
];

/** The members that a schema knows, under whatever makes it optional. */
function membersOf(schema: z.ZodType): string[] {
  let inner: z.ZodType = schema;
  while (!(inner instanceof z.ZodObject)) {
    assert.ok('unwrap' in inner, 'not an object');
    inner = (inner as z.ZodOptional<z.ZodType>).unwrap();
  }
  return Object.keys(inner.shape).sort();
}

async function send(body: Body, content: Readonly<Record<string, unknown>>): Promise<Sent> {
  const { json } = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base', timeout: 100 } });
  const { sandboxID } = json as { sandboxID: string };
  if (body.state === 'paused') await api.call('POST', `/sandboxes/${sandboxID}/pause`);
  const entries = Object.entries({ ...body.required, ...content }).map(async ([key, value]) => [
    key,
    typeof value === 'function' ? await value(sandboxID) : value,
  ]);
  const [method, path] = body.ask.replace('{id}', sandboxID).split(' ') as [string, string];
  const answer = await api.call(method, path, {
    ...body.options,
    body: Object.fromEntries(await Promise.all(entries)),
  });
  return { status: answer.status, json: answer.json, sandboxID };
}

async function prove(body: Body, label: string, member: Member, content: Readonly<Record<string, unknown>>) {
  const sent = await send(body, { ...member.beside, ...content });
  if ('refused' in member) {
    assert.ok(sent.status === 400 || sent.status === 404, `${label}: ${sent.status}`);
    assert.match(sent.json.message, member.refused, label);
  } else {
    assert.ok(sent.status < 300, `${label}: ${JSON.stringify(sent.json)}`);
    assert.deepEqual(await member.effect(sent), member.expected, label);
  }
}

for (const body of BODIES)
  test(`${body.name}: every member has its effect or is refused by name`, async () => {
    assert.deepEqual(Object.keys(body.members).sort(), membersOf(body.schema));
    for (const [key, member] of Object.entries(body.members))
      await prove(body, `${body.name}: ${key}`, member, { [key]: member.value });
    const { status, json } = await send(body, { aMemberOfTheFuture: 1 });
    if (body.unknown === 'ignored') assert.ok(status < 300, JSON.stringify(json));
    else {
      assert.equal(status, 400);
      assert.match(json.message, /aMemberOfTheFuture/);
    }
  });

for (const body of BODIES.filter((each) => each.name.startsWith('create')))
  test(`${body.name}: every member of the network has its effect or is refused by name`, async () => {
    const schema = (body.schema as z.ZodObject<{ network: z.ZodType }>).shape.network;
    assert.deepEqual(Object.keys(network).sort(), membersOf(schema));
    for (const [key, member] of Object.entries(network))
      await prove(body, `${body.name}: network.${key}`, member, {
        ...('secure' in body.members ? { secure: true } : {}),
        network: { [key]: member.value },
      });
    const { status, json } = await send(body, { network: { aPolicyOfTheFuture: true } });
    assert.equal(status, 400);
    assert.match(json.message, /"aPolicyOfTheFuture"/);
  });

test('every body that the contract reads is in the table', () => {
  const schemas = Object.values(requests).filter((each): each is z.ZodType & typeof each => each instanceof z.ZodType);
  const covered = new Set(BODIES.map((body) => body.schema));
  assert.deepEqual(
    schemas.filter((schema) => !covered.has(schema)),
    [],
  );
});
