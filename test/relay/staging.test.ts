import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Staging } from '../../src/relay/staging.ts';
import { pattern } from '../transport/harness.ts';

it('gives bytes back in order, whatever the sizes of the pieces', () => {
  const step = fc.oneof(
    fc.record({ append: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ take: fc.integer({ min: 1, max: 60 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const staging = new Staging(100);
      const all = pattern(8000);
      let appended = 0;
      const taken: Buffer[] = [];
      for (const move of steps) {
        if ('append' in move) {
          if (staging.length + move.append > 100) continue;
          staging.append(all.subarray(appended, appended + move.append));
          appended += move.append;
        } else {
          const view = staging.take(move.take);
          if (view === undefined) {
            expect(staging.length).toBe(0);
            continue;
          }
          expect(view.length).toBeLessThanOrEqual(move.take);
          taken.push(Buffer.from(view));
        }
        expect(staging.length).toBe(appended - taken.reduce((sum, { length }) => sum + length, 0));
      }
      const bytes = Buffer.concat(taken);
      expect(bytes.equals(all.subarray(0, bytes.length))).toBe(true);
    }),
  );
});

it('is empty when it was cleared', () => {
  const staging = new Staging(10);
  staging.append(new Uint8Array(10));
  staging.clear();
  expect([staging.length, staging.take(5)]).toEqual([0, undefined]);
  staging.append(new Uint8Array(10));
  expect(staging.length).toBe(10);
});
