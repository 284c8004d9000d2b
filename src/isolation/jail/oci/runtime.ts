/** The OCI runtimes that jails can be run with, and in what they differ. */
import { type Architecture, seccompProfile, seccompProgram } from './seccomp.ts';

export type RuntimeName = 'crun' | 'runc';

/** crun first: it leaves cgroups to us and takes a filter that is compiled already, and so starts a jail in half the time. */
export const RUNTIMES: readonly RuntimeName[] = ['crun', 'runc'];

export interface Runtime {
  readonly name: RuntimeName;
  /** Options before the verb. */
  flags(stateFolder: string, log: string): readonly string[];
  /** Members of the configuration's `linux`, and its annotations. `group`: path of the jail's cgroup below the mounts. */
  filter(): { readonly seccomp: unknown; readonly annotations: Readonly<Record<string, string>> };
  /** Whether it makes cgroups of its own whatever we say, and must be told where; they are gone when it deletes the jail. */
  readonly ownCgroups: boolean;
  /** Whether it makes the user namespace itself, and enters none that is there. */
  readonly ownUserNamespace: boolean;
}

export function runtimeOf(name: RuntimeName, architecture: Architecture): Runtime {
  const log = (file: string): string[] => [
    '--log-format=text',
    name === 'crun' ? `--log=file:${file}` : `--log=${file}`,
  ];
  if (name === 'crun') {
    const program = seccompProgram(architecture).toString('base64');
    return {
      name,
      ownCgroups: false,
      ownUserNamespace: false,
      flags: (stateFolder, file) => ['--cgroup-manager=disabled', `--root=${stateFolder}`, ...log(file)],
      // The annotation replaces the profile; a runtime that does not know it starts nothing.
      filter: () => ({
        seccomp: { defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 38, syscalls: [] },
        annotations: { 'run.oci.seccomp_bpf_data': program },
      }),
    };
  }
  const profile = seccompProfile(architecture);
  return {
    name,
    ownCgroups: true,
    ownUserNamespace: true,
    flags: (stateFolder, file) => [`--root=${stateFolder}`, ...log(file)],
    filter: () => ({ seccomp: profile, annotations: {} }),
  };
}
