/** What of the SDKs has no row, and why. */
import type { Exception } from './row.ts';

/** Methods without a row. */
export const EXCEPTIONS: readonly Exception[] = [
  { method: 'Secret.list', reason: 'asks nobody; see secrets.nextItems' },
  { method: 'Secret.fill', reason: 'a text that the client makes; nothing fills it in yet' },
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
