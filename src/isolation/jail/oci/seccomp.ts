/** One list of rules (syscall-rules.ts) in the two forms that OCI runtimes take. */
export { type SeccompProfile, seccompProfile } from './seccomp-profile.ts';
export { seccompProgram } from './seccomp-program.ts';
export type { Architecture } from './syscall-numbers.ts';
