/** The command line: one file per verb under cli/. Nothing is loaded but the verb that runs. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { fail } from './cli/report.ts';

function number(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new InvalidArgumentError('a number, 0 or more');
  return value;
}

function whole(text: string): number {
  const value = number(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError('a whole number');
  return value;
}

function atLeastOne(text: string): number {
  const value = whole(text);
  if (value === 0) throw new InvalidArgumentError('a whole number, 1 or more');
  return value;
}

function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}

const program = new Command('coppice')
  .description('Self-hosted sandboxes for AI agents: every sandbox regrows from one golden checkpoint.')
  .showHelpAfterError()
  .configureHelp({ sortSubcommands: true })
  .enablePositionalOptions();

program
  .command('start')
  .description('set up what is missing, serve, prove it with the official SDK; Ctrl-C leaves nothing behind')
  .option('--once', 'prove it, tear everything down and exit')
  .option('--json', 'the panel as one JSON object on the last line')
  .option('--port <port>', 'port for API and sandbox traffic (COPPICE_PORT)', whole)
  .option('--host <address>', 'address to bind (COPPICE_HOST)')
  .option('--domain <domain>', 'answer api.<domain> and <port>-<id>.<domain> too (COPPICE_DOMAIN)')
  .option('--tls', 'speak HTTPS, with a certificate of a CA made here (COPPICE_TLS=1)')
  .option('--tls-cert <file>', 'speak HTTPS with this certificate, PEM (COPPICE_TLS_CERT)')
  .option('--tls-key <file>', 'and its key, PEM (COPPICE_TLS_KEY)')
  .option('--no-proof', 'serve without the self-proof')
  .action(async (options) => (await import('./cli/start.ts')).start(options));

program
  .command('doctor')
  .description('check this host, each finding with its fix')
  .option('--json')
  .action(async (options) => (await import('./cli/doctor.ts')).doctor(options));

const sandbox = program.command('sandbox').description('sandboxes of the running service').enablePositionalOptions();
sandbox
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/sandbox.ts')).list(options));
sandbox
  .command('create [template]')
  .option('--timeout <seconds>', 'time to live', whole, 300)
  .addOption(new Option('--isolation <kind>', "default: the template's own").choices(['microvm', 'jail']))
  .option('--auto-pause', 'pause it when its time is up, and keep it')
  .option('--volume <name:path>', 'mount a volume; several times for several', collect, [])
  .option('--json')
  .action(async (template, options) => (await import('./cli/sandbox.ts')).create(template, options));
sandbox
  .command('exec <id> <command...>')
  .description("run a command; its exit code is this command's")
  .option('--user <name>', 'user in the sandbox')
  .option('--cwd <folder>')
  .option('--timeout <seconds>', '0 = none', number, 0)
  .option('--json')
  .passThroughOptions()
  .action(async (id, command, options) => (await import('./cli/sandbox.ts')).exec(id, command, options));
sandbox
  .command('shell <id>')
  .description('an interactive shell')
  .action(async (id) => (await import('./cli/sandbox.ts')).shell(id));
sandbox
  .command('kill <id...>')
  .option('--json')
  .action(async (ids, options) => (await import('./cli/sandbox.ts')).kill(ids, options));
sandbox
  .command('pause <id...>')
  .description('stop it as it is, until it is resumed or killed')
  .option('--no-memory', 'keep its disk alone: it boots when it is resumed')
  .option('--json')
  .action(async (ids, options) => (await import('./cli/sandbox.ts')).pause(ids, options));
sandbox
  .command('resume <id...>')
  .option('--timeout <seconds>', 'time to live', whole, 300)
  .option('--no-memory', 'from its disk alone: it boots')
  .option('--json')
  .action(async (ids, options) => (await import('./cli/sandbox.ts')).resume(ids, options));
sandbox
  .command('fork <id>')
  .description('new sandboxes that are what it is now, memory and processes too; it goes on')
  .option('--count <n>', 'how many', atLeastOne, 1)
  .option('--timeout <seconds>', 'time to live of each', whole, 300)
  .option('--json')
  .action(async (id, options) => (await import('./cli/sandbox.ts')).fork(id, options));
sandbox
  .command('rollback <id> <snapshot>')
  .description('make it what it was when one of its snapshots was taken')
  .option('--json')
  .action(async (id, snapshotID, options) => (await import('./cli/sandbox.ts')).rollback(id, snapshotID, options));

sandbox
  .command('metrics <id>')
  .description('what it used, a point every five seconds')
  .option('--last <n>', 'only the newest points', atLeastOne)
  .option('--json')
  .action(async (id, options) => (await import('./cli/activity.ts')).metrics(id, options));
sandbox
  .command('logs <id>')
  .description('what happened to it, and what its processes said; for a day after its end, too')
  .option('-f, --follow', 'go on until it is gone')
  .addOption(
    new Option('--level <level>', 'and what is above it').choices(['debug', 'info', 'warn', 'error']).default('info'),
  )
  .option('--json', 'one object a line')
  .action(async (id, options) => (await import('./cli/activity.ts')).logs(id, options));

const webhook = program.command('webhook').description('who is told of what happens to sandboxes');
webhook
  .command('create <url>')
  .description('a POST for each event, signed with a secret that is shown once')
  .option('--name <name>', 'default: the host of the URL')
  .option('--event <kind...>', 'created, updated, paused, resumed, checkpointed, killed; default all')
  .option('--secret <text>', 'sign with this; default one that is made here')
  .option('--json')
  .action(async (url, options) => (await import('./cli/webhook.ts')).create(url, options));
webhook
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/webhook.ts')).list(options));
webhook
  .command('delete <id...>')
  .option('--json')
  .action(async (ids, options) => (await import('./cli/webhook.ts')).remove(ids, options));
webhook
  .command('deliveries <id>')
  .description('what it was told lately, and what could not be told')
  .option('--json')
  .action(async (id, options) => (await import('./cli/webhook.ts')).deliveries(id, options));
webhook
  .command('replay <id> <event>')
  .description('tell it of an event again')
  .option('--json')
  .action(async (id, event, options) => (await import('./cli/webhook.ts')).replay(id, event, options));

const snapshot = program.command('snapshot').description('what sandboxes were at one instant, to create others from');
snapshot
  .command('list')
  .option('--sandbox <id>', 'only those of this sandbox')
  .option('--json')
  .action(async (options) => (await import('./cli/snapshot.ts')).list(options));
snapshot
  .command('tree')
  .description('which grew from which, and what each takes of the disk')
  .option('--sandbox <id>', 'only those of this sandbox, and what they grew from')
  .option('--json')
  .action(async (options) => (await import('./cli/snapshot.ts')).tree(options));
snapshot
  .command('create <sandbox> [name]')
  .description('the sandbox goes on; a name may have a :tag')
  .option('--json')
  .action(async (sandboxID, name, options) => (await import('./cli/snapshot.ts')).create(sandboxID, name, options));
snapshot
  .command('delete <id...>')
  .option('--json')
  .action(async (ids, options) => (await import('./cli/snapshot.ts')).remove(ids, options));

const volume = program.command('volume').description('folders that sandboxes share and that outlive them');
volume
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/volume.ts')).list(options));
volume
  .command('create <name>')
  .option('--json')
  .action(async (name, options) => (await import('./cli/volume.ts')).create(name, options));
volume
  .command('delete <name...>')
  .description('with all that is in them; by name or id')
  .option('--json')
  .action(async (names, options) => (await import('./cli/volume.ts')).remove(names, options));

const template = program.command('template').description('what sandboxes are made from');
template
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/template.ts')).list(options));
template
  .command('build [name...]')
  .description('build templates (all built-in ones if none is named)')
  .option('--force', 'make the golden checkpoint anew')
  .option('--json')
  .action(async (names, options) => (await import('./cli/template.ts')).build(names, options));

const image = program.command('image').description('images brought to this host as files, to build templates from');
image
  .command('import <file> <name>')
  .description("an archive (OCI layout in a tar, or docker save's) as localhost/<name>[:tag] for fromImage")
  .option('--member <name>', 'which image, where the archive holds several')
  .option('--json')
  .action(async (file, name, options) => (await import('./cli/image.ts')).bring(file, name, options));
image
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/image.ts')).list(options));
image
  .command('remove <name...>')
  .option('--json')
  .action(async (names, options) => (await import('./cli/image.ts')).remove(names, options));

const team = program.command('team').description('owners of sandboxes and keys');
team
  .command('create <name>')
  .option('--json')
  .action(async (name, options) => (await import('./cli/team.ts')).create(name, options));
team
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/team.ts')).list(options));

const key = program.command('key').description('API keys');
key
  .command('create [name]')
  .option('--team <team>', 'name or id; default the default team')
  .option('--json')
  .action(async (name, options) => (await import('./cli/key.ts')).create(name, options));
key
  .command('list')
  .option('--team <team>', 'name or id; default every team')
  .option('--json')
  .action(async (options) => (await import('./cli/key.ts')).list(options));
key
  .command('revoke <id>')
  .option('--json')
  .action(async (id, options) => (await import('./cli/key.ts')).revoke(id, options));
key
  .command('admin')
  .description("the operator's token, for X-Admin-Token: it speaks for every team")
  .option('--renew', 'a new one; the one before ends')
  .option('--json')
  .action(async (options) => (await import('./cli/key.ts')).admin(options));

const token = program.command('token').description("access tokens, for Authorization: Bearer and E2B's command line");
token
  .command('create [name]')
  .option('--team <team>', 'a team that it reaches, name or id; may be repeated; default the default team', collect)
  .option('--json')
  .action(async (name, options) => (await import('./cli/token.ts')).create(name, options));
token
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/token.ts')).list(options));
token
  .command('revoke <id>')
  .description('it and the keys that were told for it')
  .option('--json')
  .action(async (id, options) => (await import('./cli/token.ts')).revoke(id, options));

program
  .command('leaks')
  .description('count processes, taps, addresses, rules, mounts, files and cgroups that nothing accounts for')
  .option('--json')
  .action(async (options) => (await import('./cli/leaks.ts')).leaks(options));

const bench = program.command('bench').description('measure this host; results go to benchmarks/results');
bench
  .command('create')
  .description('create on a hot hit and on a miss, beside the floor; memory and idle CPU of a clone')
  .option('--n <count>', 'creates measured per row', whole, 50)
  .option('--clones <count>', 'idle clones held for the memory row', whole, 20)
  .option('--template <name>', 'template', 'base')
  .option('--out <folder>', 'where the JSON goes', 'benchmarks/results')
  .option('--json')
  .action(async (options) => (await import('./cli/bench.ts')).benchCreate(options));
bench
  .command('jails')
  .description('jails: hot and cold creates, the SDK, idle memory, many at once, beside crun, runc and podman')
  .option('--n <count>', 'rounds of every row', atLeastOne, 50)
  .option('--idle <count>', 'idle jails held for the memory row', atLeastOne, 100)
  .option('--many <count>', 'jails at once; 0: not measured', whole, 500)
  .option('--template <name>', 'template', 'base-jail')
  .option('--out <folder>', 'where the JSON goes', 'benchmarks/results')
  .option('--json')
  .action(async (options) => (await import('./cli/bench.ts')).benchJails(options));
bench
  .command('checkpoints')
  .description(
    'snapshot, pause, resume, fork, rollback and what is made from snapshots, by memory written, beside floors',
  )
  .option('--n <count>', 'rounds of every row', atLeastOne, 30)
  .option('--template <name>', 'template', 'base')
  .option('--out <folder>', 'where the JSON goes', 'benchmarks/results')
  .option('--json')
  .action(async (options) => (await import('./cli/bench-checkpoints.ts')).benchCheckpoints(options));
bench
  .command('clone-safety')
  .description('many clones of one checkpoint: whether any two of them have something that must be its own')
  .option('--count <n>', 'sandboxes', atLeastOne, 200)
  .option('--template <name>', 'template', 'code-interpreter-v1')
  .option('--out <folder>', 'where the JSON goes', 'benchmarks/results')
  .option('--json')
  .action(async (options) => (await import('./cli/bench-clone-safety.ts')).benchCloneSafety(options));
bench
  .command('load')
  .description('many programs at once that create, use and kill sandboxes by the SDK: what fails, leaks or grows')
  .option('--flows <count>', 'at once', atLeastOne, 50)
  .option('--seconds <count>', 'how long, after the warm-up', atLeastOne, 300)
  .option('--template <name>', 'template', 'base-jail')
  .option('--out <folder>', 'where the JSON goes', 'benchmarks/results')
  .option('--json')
  .action(async (options) => (await import('./cli/bench-load.ts')).benchLoad(options));
bench
  .command('volumes')
  .description('creates with a volume and files in it, beside creates without and the own disk')
  .option('--n <count>', 'rounds of each row', atLeastOne, 10)
  .option('--template <name>', 'template', 'base')
  .option('--out <folder>', 'where the JSON goes', 'benchmarks/results')
  .option('--json')
  .action(async (options) => (await import('./cli/bench-volumes.ts')).benchVolumes(options));

program
  .command('run-node', { hidden: true })
  .requiredOption('--home <folder>')
  .action(async (options) => (await import('./cli/run-node.ts')).runNode(options));
program
  .command('run-control', { hidden: true })
  .requiredOption('--home <folder>')
  .requiredOption('--port <port>', 'port', whole)
  .requiredOption('--host <address>')
  .option('--tls-cert <file>')
  .option('--tls-key <file>')
  .action(async (options) => (await import('./cli/run-control.ts')).runControl(options));

program.parseAsync().catch((error) => fail(error));
