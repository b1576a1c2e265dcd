import { expect } from 'vitest';

/**
 * For `message` and the like inside toMatchObject: a bare RegExp there accepts any error message. Typed
 * unknown, because vitest's own matchers are `any`.
 */
export function matching(pattern: RegExp | string): unknown {
  return typeof pattern === 'string'
    ? expect.stringContaining(pattern)
    : expect.stringMatching(pattern);
}
