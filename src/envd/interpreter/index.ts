/** The code interpreter's host side. */
export { createInterpreter, type Interpreter, type InterpreterOptions } from './interpreter.ts';
export { defaultTag } from './names.ts';
export { type PrestartOptions, prestartInterpreter, type ReseedResult, reseedInterpreters } from './prestart.ts';
export { DEFAULT_KERNELS, type InterpreterSandbox, type KernelSpec, type KernelSpecs } from './sandbox.ts';
