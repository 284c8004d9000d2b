/** Builds of templates of a fake node: they wait, and are what a test makes of them. */
import { randomBytes, randomUUID } from 'node:crypto';
import type { BuildApi, BuildLogLine, BuildStatus, BuildTicket, BuildView } from '../../src/contract/build-api.ts';
import { CoppiceError } from '../../src/contract/errors.ts';

interface FakeBuild {
  readonly ticket: BuildTicket;
  readonly teamID: string;
  status: BuildStatus;
  request?: string;
  reason?: BuildView['reason'];
  readonly logs: BuildLogLine[];
}

export class FakeBuilds implements BuildApi {
  readonly builds = new Map<string, FakeBuild>();
  readonly files = new Set<string>();
  readonly tags = new Map<string, string>();

  #find(teamID: string, templateID: string): FakeBuild[] {
    const found = [...this.builds.values()].filter(
      ({ ticket }) => ticket.templateID === templateID || ticket.name === templateID.split(':')[0],
    );
    if (found.length === 0) throw new CoppiceError('template_not_found', `template '${templateID}' not found`);
    if (found[0]!.teamID !== teamID)
      throw new CoppiceError('forbidden', `you don't have access to template '${templateID}'`);
    return found;
  }

  #build(teamID: string, templateID: string, buildID: string): FakeBuild {
    const found = this.#find(teamID, templateID).find(({ ticket }) => ticket.buildID === buildID);
    if (!found) throw new CoppiceError('bad_request', `Build '${buildID}' not found`);
    return found;
  }

  readonly requestBuild: BuildApi['requestBuild'] = async ({ teamID, name, tags }) => {
    const known = [...this.builds.values()].find((one) => one.ticket.name === name && one.teamID === teamID);
    const templateID = known?.ticket.templateID ?? randomBytes(10).toString('hex');
    const ticket = {
      templateID,
      buildID: randomUUID(),
      name,
      tags: tags.length > 0 ? tags : ['default'],
      public: false,
    };
    this.builds.set(ticket.buildID, { ticket, teamID, status: 'waiting', logs: [] });
    return ticket;
  };

  readonly startBuild: BuildApi['startBuild'] = async ({ teamID, templateID, buildID }, request) => {
    const build = this.#build(teamID, templateID, buildID);
    if (build.status !== 'waiting') throw new CoppiceError('bad_request', 'build is not in waiting state');
    Object.assign(build, { status: 'building', request });
  };

  readonly cancelBuilds: BuildApi['cancelBuilds'] = async (teamID) => {
    const found = [...this.builds.values()].filter(
      (build) => build.teamID === teamID && (build.status === 'waiting' || build.status === 'building'),
    );
    for (const build of found) Object.assign(build, { status: 'error', reason: { message: 'cancelled' } });
    return found.length;
  };

  readonly getBuild: BuildApi['getBuild'] = async ({ teamID, templateID, buildID, offset, limit }) => {
    const { status, reason, logs } = this.#build(teamID, templateID, buildID);
    return { templateID, buildID, status, ...(reason ? { reason } : {}), logs: logs.slice(offset, offset + limit) };
  };

  readonly buildFile: BuildApi['buildFile'] = async (teamID, templateID, hash) => {
    this.#find(teamID, templateID);
    return { present: this.files.has(hash), ticket: `1-${hash}` };
  };

  readonly tagTemplate: BuildApi['tagTemplate'] = async (teamID, target, tags) => {
    const { buildID } = this.#find(teamID, target)[0]!.ticket;
    for (const tag of tags) this.tags.set(tag, buildID);
    return { buildID, tags };
  };

  readonly untagTemplate: BuildApi['untagTemplate'] = async (teamID, template, tags) => {
    this.#find(teamID, template);
    for (const tag of tags) this.tags.delete(tag);
  };

  readonly listTags: BuildApi['listTags'] = async (teamID, template) => {
    this.#find(teamID, template);
    return [...this.tags].map(([tag, buildID]) => ({ tag, buildID, createdAtMs: 1_767_225_600_000 }));
  };

  readonly publishTemplate: BuildApi['publishTemplate'] = async (teamID, template) => [
    this.#find(teamID, template)[0]!.ticket.name,
  ];
}
