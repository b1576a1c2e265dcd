import tseslint from 'typescript-eslint';

const onlyIn = (name, where) => ({ name, message: `${name} is used in ${where} only` });

/** Packages that stay behind one door each, so that the rest never depends on them. */
const fenced = [
  onlyIn('ws', 'src/transport/ws-socket.ts'),
  onlyIn('pino', 'src/cli/log.ts'),
  onlyIn('yargs', 'src/cli'),
];
const fencedPatterns = [
  { regex: '^@(aws-sdk|smithy)/', message: 'the AWS SDK stays inside src/aws' },
];

export default tseslint.config(
  { ignores: ['dist/', 'build/', 'coverage/', 'node_modules/'] },
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/prefer-readonly': 'error',
      'no-console': 'error',
      eqeqeq: 'error',
    },
  },
  {
    files: ['src/**/*.ts'],
    rules: {
      'no-restricted-imports': ['error', { paths: fenced, patterns: fencedPatterns }],
    },
  },
  {
    // The protocol core does no I/O: bytes, time and chance are arguments.
    files: ['src/protocol/**/*.ts'],
    rules: {
      'no-restricted-globals': [
        'error',
        'process',
        'Buffer',
        'setTimeout',
        'setInterval',
        'setImmediate',
        'clearTimeout',
        'performance',
        'fetch',
      ],
      'no-restricted-properties': [
        'error',
        { object: 'Date', property: 'now', message: 'time is an argument' },
        { object: 'Math', property: 'random', message: 'chance is an argument' },
      ],
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              regex: '^\\.\\./(?!errors\\.ts$)',
              message: 'protocol imports only itself and errors.ts',
            },
            { regex: '^node:(?!crypto$)', message: 'protocol does no I/O' },
          ],
        },
      ],
    },
  },
  {
    files: ['src/transport/ws-socket.ts', 'src/cli/**/*.ts', 'src/aws/**/*.ts'],
    rules: { 'no-restricted-imports': 'off' },
  },
  {
    files: ['test/**/*.ts', 'scripts/**/*.ts'],
    rules: {
      '@typescript-eslint/no-non-null-assertion': 'off',
      'no-console': 'off',
    },
  },
);
