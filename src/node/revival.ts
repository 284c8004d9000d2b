/** A sandbox that was there already: of an earlier process, or paused. */
import { CoppiceError } from '../contract/errors.ts';
import type { Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Attachment } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import type { KnownTemplates } from './known-templates.ts';
import { Member } from './member.ts';
import { environment } from './nursery.ts';
import type { MachineRow, Owner } from './rows.ts';
import type { Views } from './views.ts';

export interface RevivalOptions {
  readonly backends: Backends;
  readonly templates: KnownTemplates;
  readonly views: Views;
  readonly log: Log;
}

export class Revival {
  readonly #options: RevivalOptions;

  constructor(options: RevivalOptions) {
    this.#options = options;
  }

  /** Makes a member around a sandbox's machine. Nothing is asked of the machine. */
  around(
    row: MachineRow & { readonly owner: Owner },
    machine: Machine,
    port: { readonly attachment: Attachment | undefined; readonly internet: boolean } | undefined,
  ): Member {
    const { backends, templates, log } = this.#options;
    const template = templates.of(row);
    if (!template) throw new CoppiceError('template_not_found', `the template of sandbox ${row.id} is gone`);
    const member = new Member({
      id: row.id,
      templateID: row.templateID,
      generation: row.generation,
      memoryMB: row.memoryMB,
      languages: template.languages,
      env: environment(template, row.id, row.owner.env),
      machine,
      agentOnDemand: backends.of(template.isolation).capabilities.agentOnDemand,
      attachment: port?.attachment,
      ...(template.runtime ? { runtime: template.runtime } : {}),
      log,
    });
    member.internet = port?.internet ?? false;
    this.assign(member, row.owner);
    return member;
  }

  /** Its services serve its owner. */
  assign(member: Member, owner: Owner): void {
    const { maskRequestHost } = owner;
    member.assign({ env: member.env, maskRequestHost, ...this.#options.views.tokensOf(member.id, owner) });
  }
}
