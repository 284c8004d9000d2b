/** POST /files/compose: joins uploaded pieces into one file within the sandbox. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { z } from 'zod';
import { writtenFile } from './entry-info.ts';
import { HttpFailure } from './failures.ts';
import { filePath, userOr } from './file-query.ts';
import { readBody, replyJSON } from './reply.ts';
import type { EnvdSandbox } from './sandbox.ts';

const MAX_BODY = 1024 * 1024;

const composeRequest = z.object({
  source_paths: z.array(z.string().min(1)).min(1).max(10_000),
  destination: z.string().min(1),
  username: z.string().optional(),
});

/** Replies 200 with the new file. Rejects with AgentError or HttpFailure. */
export async function serveCompose(sandbox: EnvdSandbox, req: IncomingMessage, res: ServerResponse): Promise<void> {
  const request = composeRequest.safeParse(parse(await readBody(req, MAX_BODY)));
  if (!request.success) {
    const issue = request.error.issues[0];
    throw new HttpFailure(400, `${issue?.path.join('.') || 'body'}: ${issue?.message}`);
  }
  const { source_paths, destination, username } = request.data;
  const agent = await sandbox.agent();
  const sources = source_paths.map(filePath);
  replyJSON(
    res,
    200,
    writtenFile(await agent.compose(sources, filePath(destination), userOr(sandbox, username ?? ''))),
  );
}

function parse(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw new HttpFailure(400, 'the body is not JSON', { cause });
  }
}
