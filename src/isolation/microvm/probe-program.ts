/**
 * The init of the self-test: the smallest program that shows a kernel has booted and how fast its time stamp counter
 * runs. x86-64 Linux, no libraries. Three times, a second apart (nanosleep), it writes `@`, the counter as 16 hex digits,
 * and a newline to its console; then it reboots, which ends the VMM. In assembly:
 *
 *     mov ebp, 3
 *     again: sub rsp, 32; rdtsc; shl rdx, 32; or rax, rdx; mov byte [rsp], '@'; mov ecx, 16
 *     hex:   mov edx, eax; and edx, 15; cmp dl, 10; jb digit; add dl, 39
 *     digit: add dl, 48; mov [rsp+rcx], dl; shr rax, 4; dec ecx; jnz hex
 *     mov byte [rsp+17], 10; mov eax, 1; mov edi, 1; mov rsi, rsp; mov edx, 18; syscall            write(1, rsp, 18)
 *     push 0; push 1; mov eax, 35; mov rdi, rsp; xor esi, esi; syscall; add rsp, 48               nanosleep(1 s)
 *     dec ebp; jnz again
 *     mov eax, 169; mov edi, 0xfee1dead; mov esi, 0x28121969; mov edx, 0x01234567; syscall; jmp $  reboot(RESTART)
 */
const CODE = Buffer.from(
  [
    'bd030000004883ec200f3148c1e2204809d0c6042440b91000000089c283',
    'e20f80fa0a720380c22780c23088140c48c1e804ffc975e5c64424110ab8',
    '01000000bf010000004889e6ba120000000f056a006a01b8230000004889',
    'e731f60f054883c430ffcd759eb8a9000000bfaddee1febe69191228ba67',
    '4523010f05ebfe',
  ].join(''),
  'hex',
);

const BASE = 0x400000;
const HEADERS = 64 + 56;

/** Readings that the program makes, and the seconds between two of them. */
export const PROBE_READINGS = 3;
export const PROBE_MARK = /@([0-9a-f]{16})\r?\n/g;

/** The program as an ELF executable: file header, one program header (read and execute), the code. */
export function probeProgram(): Buffer {
  const header = Buffer.alloc(HEADERS);
  header.write('\x7fELF\x02\x01\x01', 0, 'latin1');
  header.writeUInt16LE(2, 16); // ET_EXEC
  header.writeUInt16LE(62, 18); // EM_X86_64
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(BASE + HEADERS), 24);
  header.writeBigUInt64LE(64n, 32);
  header.writeUInt16LE(64, 52);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(1, 56);
  header.writeUInt32LE(1, 64); // PT_LOAD
  header.writeUInt32LE(5, 68);
  header.writeBigUInt64LE(BigInt(BASE), 80);
  header.writeBigUInt64LE(BigInt(BASE), 88);
  header.writeBigUInt64LE(BigInt(HEADERS + CODE.length), 96);
  header.writeBigUInt64LE(BigInt(HEADERS + CODE.length), 104);
  header.writeBigUInt64LE(4096n, 112);
  return Buffer.concat([header, CODE]);
}
