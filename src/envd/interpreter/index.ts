/** The code interpreter's host side. */
export { createInterpreter, type Interpreter, type InterpreterOptions } from './interpreter.ts';
export {
  DEFAULT_KERNELS,
  type KernelFiles,
  type KernelSpec,
  type KernelSpecs,
  kernelSpecs,
} from './kernels.ts';
export { defaultTag } from './names.ts';
export {
  type PrestartOptions,
  prestartInterpreter,
  type ReseedOptions,
  type ReseedResult,
  reseedInterpreters,
} from './prestart.ts';
export type { InterpreterSandbox } from './sandbox.ts';
