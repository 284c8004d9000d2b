/** Accounts from passwd and group files as they are; no name service. Read again when a file has changed. */
import fs from 'node:fs';
import path from 'node:path';
import { Failure } from './failure.ts';

export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

export interface Users {
  /** Throws Failure `unauthenticated`. */
  find(name?: string): Account;
  userName(uid: number): string;
  groupName(gid: number): string;
}

const DEFAULT_USER = 'user';

/** `etc`: the folder that holds `passwd` and `group`. */
export function readUsers(etc: string): Users {
  const passwd = cachedLines(path.join(etc, 'passwd'), (lines) => {
    const byName = new Map<string, Account>();
    const byID = new Map<number, string>();
    for (const [name, , uid, gid, , home] of lines) {
      if (!name || !uid || !/^\d+$/.test(uid) || !/^\d+$/.test(gid ?? '')) continue;
      if (!byName.has(name)) byName.set(name, { name, uid: Number(uid), gid: Number(gid), home: home || '/' });
      if (!byID.has(Number(uid))) byID.set(Number(uid), name);
    }
    return { byName, byID };
  });
  const group = cachedLines(path.join(etc, 'group'), (lines) => {
    const byID = new Map<number, string>();
    for (const [name, , gid] of lines) if (name && gid && !byID.has(Number(gid))) byID.set(Number(gid), name);
    return byID;
  });
  return {
    find(name = DEFAULT_USER) {
      const account = passwd().byName.get(name);
      if (!account) throw new Failure('unauthenticated', `invalid username: '${name}'`);
      return account;
    },
    userName: (uid) => passwd().byID.get(uid) ?? String(uid),
    groupName: (gid) => group().get(gid) ?? String(gid),
  };
}

function cachedLines<T>(file: string, parse: (lines: string[][]) => T): () => T {
  let stamp = '';
  let value: T | undefined;
  return () => {
    const stat = fs.statSync(file, { throwIfNoEntry: false });
    const now = stat ? `${stat.ino} ${stat.size} ${stat.mtimeMs}` : 'none';
    if (value !== undefined && now === stamp) return value;
    const text = stat ? fs.readFileSync(file, 'utf8') : '';
    value = parse(text.split('\n').map((line) => line.split(':')));
    stamp = now;
    return value;
  };
}
