/** What is not there yet: each is refused with 501 by name, as the rows prove. With its verb the row goes. */
import assert from 'node:assert/strict';
import type { Exception, Row, RowContext } from '../row.ts';

const NOT_THERE = 'is not there yet: 501';

function pending(method: string, call: (context: RowContext) => unknown): Row {
  return {
    method,
    proves: NOT_THERE,
    run: async (context) => {
      await assert.rejects(
        async () => call(context),
        (error: Error) => /501|not implemented|not there yet/i.test(error.message),
      );
    },
  };
}

export const isPending = (row: Pick<Row, 'proves'>): boolean => row.proves === NOT_THERE;

export default [
  pending('Secret.create', ({ sdk, sdkOptions }) => sdk.Secret.create('name', 'value', sdkOptions)),
  pending('Secret.update', ({ sdk, sdkOptions }) => sdk.Secret.update('name', 'value', sdkOptions)),
  pending('Secret.getInfo', ({ sdk, sdkOptions }) => sdk.Secret.getInfo('name', sdkOptions)),
  pending('Secret.exists', ({ sdk, sdkOptions }) => sdk.Secret.exists('name', sdkOptions)),
  pending('Secret.destroy', ({ sdk, sdkOptions }) => sdk.Secret.destroy('name', sdkOptions)),
  pending('secrets.nextItems', ({ sdk, sdkOptions }) => sdk.Secret.list(sdkOptions).nextItems()),
] satisfies Row[];

/** Methods without a row. */
export const EXCEPTIONS: readonly Exception[] = [
  { method: 'Secret.list', reason: 'asks nobody; see secrets.nextItems' },
  { method: 'Secret.fill', reason: 'a text that the client makes; secrets are not there yet' },
  { method: 'Secret.iamToken', reason: 'a value that the client makes; create refuses `iam` by name' },
  { method: 'sandbox.getMcpUrl', reason: 'a text that the client makes; create refuses `mcp` by name' },
  { method: 'sandbox.getMcpToken', reason: 'reads what a sandbox with MCP has; create refuses `mcp` by name' },
  { method: 'template.addMcpServer', reason: 'only upon E2B’s own template `mcp-gateway`' },
  { method: 'template.betaDevContainerPrebuild', reason: 'only upon E2B’s own template `devcontainer`' },
  { method: 'template.betaSetDevContainerStart', reason: 'only upon E2B’s own template `devcontainer`' },
];

/** What else the packages export, and why it has no row. */
export const CLIENT_SIDE: readonly (readonly [names: RegExp, reason: string])[] = [
  [/Error$/, 'classes of errors; rows hold what is thrown against them'],
  [/^(FileType|FilesystemEventType|VolumeFileType|ALL_TRAFFIC)$/, 'constants'],
  [/^(ConnectionConfig|ApiClient|E2B)$/, 'the connection, which every row uses'],
  [/^(ReadyCmd|waitFor(Port|URL|Process|File|Timeout))$/, 'words for a command of setStartCmd and setReadyCmd'],
  [/^(LogEntry|LogEntryStart|LogEntryEnd|defaultBuildLogger)$/, 'how a client shows the log of a build'],
  [/^(getSignature)$/, 'the signature in uploadUrl and downloadUrl'],
  [/^(SecretPaginator)$/, 'rows secrets.*'],
  [/^(Sandbox|default|Git|Template|TemplateBase|Volume|Secret)$/, 'rows'],
  [/^(module\.exports|__esModule)$/, 'of the format of the package'],
];
