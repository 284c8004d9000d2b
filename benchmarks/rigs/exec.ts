/** A command in a sandbox by plain HTTP: the request that the official packages make, without them. */
import { type Agent, request } from 'node:http';
import { ENVD_PORT, TRAFFIC_PORT_HEADER, TRAFFIC_SANDBOX_HEADER } from '../../src/contract/node-api.ts';

export interface Command {
  readonly cmd: string;
  readonly args: readonly string[];
}

/** What the packages run for `commands.run('echo layer')`. */
export const ECHO: Command = { cmd: '/bin/bash', args: ['-l', '-c', 'echo layer'] };
/** What a spawn costs without a shell. */
export const TRUE: Command = { cmd: '/bin/true', args: [] };

export interface ExecTarget {
  readonly agent: Agent;
  /** The service's port, or the node's traffic socket, past the edge. */
  readonly at: { readonly port: number } | { readonly socketPath: string };
  readonly sandboxID: string;
  /** envd's, for sandboxes that demand one. */
  readonly accessToken?: string;
}

/** Milliseconds from the request to the end of its answer. Throws when the command did not end well. */
export function timeExec({ agent, at, sandboxID, accessToken }: ExecTarget, command: Command): Promise<number> {
  const begun = performance.now();
  const message = Buffer.from(JSON.stringify({ process: command, stdin: false }));
  // Connect's envelope: flags, length, message.
  const body = Buffer.concat([Buffer.alloc(5), message]);
  body.writeUInt32BE(message.length, 1);
  const headers = {
    'Content-Type': 'application/connect+json',
    'Content-Length': body.length,
    'Connect-Protocol-Version': '1',
    Authorization: `Basic ${btoa('user:')}`,
    ...(accessToken === undefined ? {} : { 'X-Access-Token': accessToken }),
    ...('port' in at
      ? { 'E2b-Sandbox-Id': sandboxID, 'E2b-Sandbox-Port': String(ENVD_PORT) }
      : { [TRAFFIC_SANDBOX_HEADER]: sandboxID, [TRAFFIC_PORT_HEADER]: String(ENVD_PORT) }),
  };
  const where = 'port' in at ? { host: '127.0.0.1', port: at.port } : at;
  return new Promise((resolve, reject) => {
    const req = request({ agent, ...where, method: 'POST', path: '/process.Process/Start', headers }, (res) => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () => {
        const took = performance.now() - begun;
        const text = Buffer.concat(chunks).toString();
        const right = command === ECHO ? text.includes(btoa('layer\n')) : true;
        if (res.statusCode === 200 && right && text.includes('exit status 0')) resolve(took);
        else reject(new Error(`${command.cmd} answered ${res.statusCode}: ${text.slice(0, 500)}`));
      });
    });
    req.on('error', reject);
    req.end(body);
  });
}
