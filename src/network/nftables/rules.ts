/** The namespace's rules as they are in the kernel, changed by whole transactions, one after another. */
import type { Log } from '../../telemetry/log.ts';
import type { Commands } from './commands.ts';
import { addSubjects, grant, namespaceRuleset, openService, removeSubjects, revoke, type Subject } from './ruleset.ts';

export interface Rules {
  /** Replaces everything: exactly these sandboxes are known. */
  load(subjects: readonly Subject[], signal?: AbortSignal): Promise<void>;
  /**
   * Makes these known as they say, and forgets those ports; in one transaction. A port that is known already may change its
   * mark, and be served from now on; it keeps its address. Rejecting means that nothing changed.
   */
  change(set: readonly Subject[], forget?: readonly string[]): Promise<void>;
}

export function createRules(inside: Commands, log: Log): Rules {
  let known: ReadonlyMap<string, Subject> = new Map();
  let last: Promise<unknown> = Promise.resolve();

  function inTurn(act: () => Promise<void>): Promise<void> {
    const turn = last.then(act);
    last = turn.catch(() => {});
    return turn;
  }

  return {
    load(subjects, signal) {
      return inTurn(async () => {
        await inside.nft(namespaceRuleset(subjects), signal);
        known = new Map(subjects.map((subject) => [subject.port, subject]));
      });
    },

    change(set, forget = []) {
      return inTurn(async () => {
        const next = new Map(known);
        const gone = forget.flatMap((port) => known.get(port) ?? []);
        for (const { port } of gone) next.delete(port);
        const added = set.filter((subject) => !known.has(subject.port));
        const changed = set.filter(
          (subject) => known.has(subject.port) && known.get(subject.port)!.mark !== subject.mark,
        );
        const opened = set.filter(({ port, served }) => served && known.has(port) && !known.get(port)!.served);
        for (const subject of set) next.set(subject.port, subject);
        const lines = [
          ...removeSubjects(gone),
          ...revoke(changed.map((subject) => known.get(subject.port)!).filter((subject) => subject.mark !== 0)),
          ...addSubjects(added),
          ...grant(changed.filter((subject) => subject.mark !== 0)),
          ...openService(opened),
        ];
        if (lines.length === 0) return;
        try {
          await inside.nft(lines.join('\n'));
        } catch (error) {
          // The kernel is not as it was left, or nft itself is at fault: say the whole instead of the difference.
          log.warn({ error }, 'rules are loaded anew');
          await inside.nft(namespaceRuleset([...next.values()]));
        }
        known = next;
      });
    },
  };
}
