/** One text for what is not there and for what is another team's: a caller learns nothing of either. */
import { CoppiceError } from '../contract/errors.ts';

export function notFound(sandboxID: string): CoppiceError {
  return new CoppiceError('sandbox_not_found', `Sandbox "${sandboxID}" doesn't exist or you don't have access to it`);
}
