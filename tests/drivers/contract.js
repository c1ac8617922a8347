// What the contract's programs for Node share; contract.py says what they print.
'use strict'
const { setTimeout } = require('node:timers/promises')

const driver = process.argv[2]
const sleep = `SELECT pg_sleep(30) /* ${driver} */`

module.exports = {
  driver,
  sleep,
  statement: `SELECT $1::int * 3 AS n, pg_backend_pid() AS pid /* ${driver} */`,
  prepared: `SELECT count(*)::int AS n FROM pg_prepared_statements WHERE statement LIKE '%/* ${driver} */'`,
  big: 'SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n',
  sleeps: `SELECT count(*)::int AS n FROM pg_stat_activity WHERE state = 'active' AND query = '${sleep}'`,
  table: 'DROP TABLE IF EXISTS contract; CREATE TABLE contract (id int, text text)',
  lines: Array.from({ length: 1000 }, (_, n) => `${n + 1}\tx\n`).join(''),

  say (step, ...results) {
    console.log(step, results.join(' ').replaceAll('\n', ' '))
  },

  // Number of rows, sum of the numbers, sum of the lengths; a text that belongs to another number counts nothing.
  size (rows) {
    let sum = 0
    let length = 0
    for (const { n, text } of rows) {
      sum += n
      length += text === String.fromCharCode(97 + n % 26).repeat(100) ? text.length : 0
    }
    return [rows.length, sum, length]
  },

  moves: (pids) => pids.slice(1).filter((pid, i) => pid !== pids[i]).length,

  // The SQLSTATE with which it ends, or what it makes of its result.
  async outcome (promise, of = () => '00000') {
    try {
      return of(await promise)
    } catch (error) {
      return error.code
    }
  },

  async until (isSo) {
    while (!await isSo()) {
      await setTimeout(10)
    }
  },

  // Every step ends with all its connections closed by `close`.
  async run (steps, close) {
    for (const step of steps) {
      try {
        await step()
      } catch (error) {
        module.exports.say(step.name, 'failed:', error.stack)
      }
      await close()
    }
  }
}
