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
  .option('--json')
  .action(async (ids, options) => (await import('./cli/sandbox.ts')).pause(ids, options));
sandbox
  .command('resume <id...>')
  .option('--timeout <seconds>', 'time to live', whole, 300)
  .option('--json')
  .action(async (ids, options) => (await import('./cli/sandbox.ts')).resume(ids, options));

const snapshot = program.command('snapshot').description('what sandboxes had on disk, to create others from');
snapshot
  .command('list')
  .option('--sandbox <id>', 'only those of this sandbox')
  .option('--json')
  .action(async (options) => (await import('./cli/snapshot.ts')).list(options));
snapshot
  .command('create <sandbox> [name]')
  .description('the sandbox goes on; a name may have a :tag')
  .option('--json')
  .action(async (sandboxID, name, options) => (await import('./cli/snapshot.ts')).create(sandboxID, name, options));
snapshot
  .command('delete <id...>')
  .option('--json')
  .action(async (ids, options) => (await import('./cli/snapshot.ts')).remove(ids, options));

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

const key = program.command('key').description('API keys');
key
  .command('create [name]')
  .option('--json')
  .action(async (name, options) => (await import('./cli/key.ts')).create(name, options));
key
  .command('list')
  .option('--json')
  .action(async (options) => (await import('./cli/key.ts')).list(options));
key
  .command('revoke <id>')
  .option('--json')
  .action(async (id, options) => (await import('./cli/key.ts')).revoke(id, options));

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

program
  .command('run-node', { hidden: true })
  .requiredOption('--home <folder>')
  .action(async (options) => (await import('./cli/run-node.ts')).runNode(options));
program
  .command('run-control', { hidden: true })
  .requiredOption('--home <folder>')
  .requiredOption('--port <port>', 'port', whole)
  .requiredOption('--host <address>')
  .action(async (options) => (await import('./cli/run-control.ts')).runControl(options));

program.parseAsync().catch((error) => fail(error));
