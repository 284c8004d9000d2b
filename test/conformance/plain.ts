/** Runs the rows that need no SDK: REST verbs by plain HTTP, envd's calls by binary protobuf. */
import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { withStore } from '../../src/cli/local-service.ts';
import { PENDING_VERBS } from '../../src/contract/e2b/routes.ts';
import { ensureAdminToken } from '../../src/control/admin-token.ts';
import { ENVD_CALLS, ENVD_ROWS, envdClients } from './envd.ts';
import { type Front, openFront } from './front.ts';
import { REST_ROWS, type RestContext } from './rest.ts';
import { type ConformanceWorld, test, withEnds } from './run.ts';

const COLUMN = 'plain HTTP';

export function plainRows(world: ConformanceWorld): void {
  const { kind, results } = world;
  results.rest.set(COLUMN, new Map());
  let front: Front;
  let known: Pick<RestContext, 'teamID' | 'other' | 'asHolder' | 'asAdmin'>;
  const key = (): Record<string, string> => ({ 'x-api-key': world.service().apiKey });
  const fetched = (method: string, path: string, body: unknown, who: Readonly<Record<string, string>>) =>
    fetch(`${front.url}${path}`, {
      method,
      headers: { ...who, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  const ask: RestContext['ask'] = async (method, path, body, who = key()) => {
    const answer = await fetched(method, path, body, who);
    const text = await answer.text();
    if (answer.status >= 400) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return answer.headers.get('content-type')?.includes('json') ? JSON.parse(text) : text;
  };
  const status: RestContext['status'] = async (method, path) => {
    const answer = await fetched(method, path, undefined, key());
    await answer.arrayBuffer();
    return answer.status;
  };
  before(async () => {
    const { home, port } = world.service();
    front = await openFront(port);
    results.rest.set(COLUMN, front.asked);
    known = withStore(({ teams, tokens, keys, admin }) => {
      const { teamID } = teams.default;
      const other = teams.create(`other-${kind.name}`).teamID;
      return {
        teamID,
        other: { teamID: other, key: keys.create({ teamID: other, name: 'test' }).key },
        asHolder: { authorization: `Bearer ${tokens.create({ teamIDs: [teamID], name: 'test' }).token}` },
        asAdmin: { 'x-admin-token': ensureAdminToken(admin, home.folder) },
      };
    }, home);
  });
  after(() => front?.close());

  describe(COLUMN, () => {
    for (const [verb, row] of Object.entries(REST_ROWS))
      test(results, verb, async () => {
        front.during(verb);
        await withEnds((ends) => {
          const atEnd = (end: () => unknown): void => void ends.push(end);
          const create = async (more: object = {}): Promise<string> => {
            const { sandboxID } = await ask('POST', '/v2/sandboxes', { templateID: kind.base, timeout: 300, ...more });
            atEnd(() => status('DELETE', `/sandboxes/${sandboxID}`));
            return sandboxID;
          };
          return row({ kind, ask, status, create, atEnd, ...known });
        });
        assert.ok(front.asked.get(verb)?.has(verb), 'the row is about a verb that it did not get');
        front.check();
      });
    for (const { method, path } of PENDING_VERBS)
      test(results, `${method} ${path} answers 501`, async () => {
        front.during(`${method} ${path}`);
        const answer = await fetched(method, path.replace(/:[A-Za-z]+/g, 'some'), undefined, key());
        assert.equal(answer.status, 501);
        assert.match(((await answer.json()) as { message: string }).message, /\S/);
        front.check();
      });
  });

  describe('binary protobuf', () => {
    let id: string;
    let token: string;
    before(async () => {
      front.during('before the calls of envd');
      const made = await ask('POST', '/v2/sandboxes', { templateID: kind.base, timeout: 900 });
      id = made.sandboxID;
      token = made.envdAccessToken;
    });
    after(() => status('DELETE', `/sandboxes/${id}`));
    for (const [index, call] of ENVD_CALLS.entries())
      test(results, call, async () => {
        const row = ENVD_ROWS[call];
        assert.ok(row, 'there is no row for it');
        const called = new Set<string>();
        const sandbox = { sandboxID: id, envdAccessToken: token };
        const clients = envdClients(world.service().url, sandbox, (name) => called.add(name));
        const at = `/home/user/envd-${index}`;
        await clients.files.makeDir({ path: at });
        called.clear();
        await row({ ...clients, at });
        assert.ok(called.has(call), 'the row did not make the call that it is about');
        results.envd.set(call, `binary protobuf ${call}`);
      });
  });
}
