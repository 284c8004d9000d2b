/** A sandbox that was there already: of an earlier process, or paused. */
import type { Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Attachment } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { Member } from './member.ts';
import { environment, type Template } from './nursery.ts';
import type { MachineRow, Owner } from './rows.ts';
import type { Views } from './views.ts';

/** Makes a member around a sandbox's machine. Nothing is asked of the machine. */
export function revive(
  row: MachineRow & { readonly owner: Owner },
  template: Template,
  machine: Machine,
  options: {
    readonly attachment: Attachment | undefined;
    readonly backends: Backends;
    readonly views: Views;
    readonly log: Log;
  },
): Member {
  const { attachment, backends, views, log } = options;
  const member = new Member({
    id: row.id,
    templateID: row.templateID,
    generation: row.generation,
    memoryMB: row.memoryMB,
    languages: template.languages,
    env: environment(template, row.id, row.owner.env),
    machine,
    agentOnDemand: backends.of(template.isolation).capabilities.agentOnDemand,
    attachment,
    log,
  });
  member.assign({ env: member.env, ...views.tokenOf(row.id, row.owner) });
  return member;
}
