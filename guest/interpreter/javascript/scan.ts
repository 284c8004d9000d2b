/** Words and punctuation of JavaScript, without comments, strings and regular expressions: enough to find statements. */

export interface Token {
  /** An identifier or keyword, one character of punctuation, or '' for a literal. */
  readonly text: string;
  readonly start: number;
  /** How many brackets are open before it. */
  readonly depth: number;
}

/** Words after which a slash begins a regular expression. */
const BEFORE_EXPRESSION = new Set(
  'await case delete do else in instanceof new of return throw typeof void yield'.split(' '),
);
const WORD = /[\p{ID_Start}$_#\\](?:[\p{ID_Continue}$\\]|\u200c|\u200d)*/uy;
const SPACE = /(?:\s|\/\/[^\n]*|\/\*[\s\S]*?\*\/)+/y;
const NUMBER = /\.?\d(?:[eE][+-]|[\w.])*/y;
const STRING = /(['"])(?:\\[\s\S]|(?!\1)[^\\\n])*\1/y;
const REGEX = /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/\w*/y;
const TEMPLATE = /(?:\\[\s\S]|\$(?!\{)|[^\\`$])*/y;

/** Code that is no JavaScript gives some tokens, and none of the errors: whoever compiles it finds those. */
export function scan(code: string): Token[] {
  const tokens: Token[] = [];
  /** Open brackets; a template's `${` is told apart, for its end goes on with the template. */
  const open: string[] = [];
  let at = code.startsWith('#!') ? code.search(/\n|$/) : 0;
  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const text = pattern.exec(code)?.[0];
    if (text !== undefined) at += text.length;
    return text;
  };
  const skipTemplate = (): void => {
    take(TEMPLATE);
    if (code.startsWith('${', at)) {
      open.push('${');
      at += 2;
    } else at += 1;
  };
  while (at < code.length) {
    if (take(SPACE)) continue;
    const [start, depth] = [at, open.length];
    const add = (text: string): void => void tokens.push({ text, start, depth });
    const word = take(WORD);
    if (word !== undefined) {
      add(word);
    } else if (take(NUMBER) || take(STRING) || (beginsExpression(tokens.at(-1)) && take(REGEX))) {
      add('');
    } else {
      const char = code[at]!;
      at += 1;
      if (char === '`') {
        add('');
        skipTemplate();
      } else if (char === '}' && open.at(-1) === '${') {
        open.pop();
        skipTemplate();
      } else {
        if ('([{'.includes(char)) open.push(char);
        else if (')]}'.includes(char)) open.pop();
        add(char);
      }
    }
  }
  return tokens;
}

/** Whether a slash after this token is no division. */
function beginsExpression(last: Token | undefined): boolean {
  if (last === undefined || BEFORE_EXPRESSION.has(last.text)) return true;
  return last.text.length === 1 && '(,=:[!&|?{};+-*%~^<>'.includes(last.text);
}
