import { BridgeError } from '../errors.ts';

/**
 * Text for the user: help, an ssh_config block. Resolves when it is written. The relay does not come this
 * way, and while it runs nothing else may. A reader that has left early (`| head`) is no failure.
 */
export function writeStdout(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.on('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code === 'EPIPE') resolve();
      else
        reject(new BridgeError('local.io', `cannot write to stdout: ${cause.message}`, { cause }));
    });
    process.stdout.write(text, (error) => {
      // Called for a failed write too, before the event above tells what it is.
      if (error === null || error === undefined) resolve();
    });
  });
}
