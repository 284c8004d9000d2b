/** Progress of long work: one line that rewrites itself on a terminal, one line per step elsewhere. */
import { styleText } from 'node:util';

export interface Progress {
  /** A new step, or news about the one that runs. `etaSeconds`: what is left of all of it, as far as is known. */
  step(label: string, news?: { readonly fraction?: number; readonly etaSeconds?: number }): void;
  /** Ends the step that runs with a tick. */
  done(label?: string): void;
  /** A line of its own that stays. */
  note(line: string): void;
  stop(): void;
}

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const FRAME_MS = 100;

export function createProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  return stream.isTTY ? new TerminalProgress(stream) : new PlainProgress(stream);
}

class TerminalProgress implements Progress {
  readonly #stream: NodeJS.WriteStream;
  #label: string | undefined;
  #news: { readonly fraction?: number; readonly etaSeconds?: number } = {};
  #newsAt = 0;
  #begun = 0;
  #frame = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  step(label: string, news: { readonly fraction?: number; readonly etaSeconds?: number } = {}): void {
    if (label !== this.#label) {
      if (this.#label) this.done();
      this.#label = label;
      this.#begun = Date.now();
    }
    this.#news = news;
    this.#newsAt = Date.now();
    this.#timer ??= setInterval(() => this.#draw(), FRAME_MS);
    this.#timer.unref();
    this.#draw();
  }

  done(label?: string): void {
    if (this.#label === undefined) return;
    const took = ((Date.now() - this.#begun) / 1000).toFixed(1);
    this.#clear();
    this.#stream.write(`${styleText('green', '✔')} ${label ?? this.#label} ${styleText('dim', `${took} s`)}\n`);
    this.#label = undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  note(line: string): void {
    this.#clear();
    this.#stream.write(`${line}\n`);
    if (this.#label) this.#draw();
  }

  stop(): void {
    this.#clear();
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#label = undefined;
  }

  #clear(): void {
    this.#stream.write('\r\x1b[K');
  }

  #draw(): void {
    if (this.#label === undefined) return;
    const elapsed = (Date.now() - this.#begun) / 1000;
    const { fraction, etaSeconds } = this.#news;
    const left = etaSeconds === undefined ? undefined : etaSeconds - (Date.now() - this.#newsAt) / 1000;
    const tail = [
      fraction === undefined ? undefined : `${Math.round(fraction * 100)} %`,
      `${elapsed.toFixed(0)} s`,
      left === undefined ? undefined : left > 0 ? `about ${duration(left)} left` : 'nearly done',
    ].filter((part) => part !== undefined);
    const line = `${styleText('cyan', FRAMES[this.#frame++ % FRAMES.length]!)} ${this.#label} ${styleText('dim', tail.join(', '))}`;
    this.#stream.write(`\r\x1b[K${line}`);
  }
}

class PlainProgress implements Progress {
  readonly #stream: NodeJS.WriteStream;
  #label: string | undefined;
  #begun = 0;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  step(label: string, news: { readonly etaSeconds?: number } = {}): void {
    if (label === this.#label) return;
    this.#label = label;
    this.#begun = Date.now();
    const left = news.etaSeconds === undefined ? '' : ` (about ${duration(news.etaSeconds)} left)`;
    this.#stream.write(`${label}${left}\n`);
  }

  done(label?: string): void {
    if (this.#label === undefined) return;
    this.#stream.write(`${label ?? this.#label}: done in ${((Date.now() - this.#begun) / 1000).toFixed(1)} s\n`);
    this.#label = undefined;
  }

  note(line: string): void {
    this.#stream.write(`${line}\n`);
  }

  stop(): void {
    this.#label = undefined;
  }
}

function duration(secondsLeft: number): string {
  return secondsLeft < 90 ? `${Math.ceil(secondsLeft)} s` : `${Math.ceil(secondsLeft / 60)} min`;
}
