// The contract with postgres.js, which prepares every query with values by name and pipelines.
// Variants: postgres.js, and postgres.js-unprepared with `prepare: false`.
'use strict'
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const postgres = require('postgres')
const c = require('./contract.js')

let open = []

function connect () {
  const sql = postgres({
    host: process.env.PGHOST,
    max: 1,
    prepare: !c.driver.includes('unprepared'),
    fetch_types: true,
    onnotice () {}
  })
  open.push(sql)
  return sql
}

async function close () {
  await Promise.all(open.map((sql) => sql.end({ timeout: 5 })))
  open = []
}

const value = async (sql, text) => Object.values((await sql.unsafe(text))[0])[0]

async function transactions () {
  const [one, other] = [connect(), connect()]
  await other.unsafe(c.table)
  await one.begin((sql) => sql`INSERT INTO contract VALUES (${1}, ${'kept'})`)
  c.say('commit', await value(other, 'SELECT count(*) FROM contract'))
  await one.begin(async (sql) => {
    await sql`INSERT INTO contract VALUES (${2}, ${'gone'})`
    throw new Error('rollback')
  }).catch((error) => { if (error.message !== 'rollback') throw error })
  c.say('rollback', await value(other, 'SELECT count(*) FROM contract WHERE id = 2'))
  await one.begin(async (sql) => {
    await c.outcome(sql.savepoint(async (inner) => {
      await inner`INSERT INTO contract VALUES (${3}, ${'gone'})`
      await inner`SELECT 1 / ${0}::int`
    }))
    await sql`INSERT INTO contract VALUES (${4}, ${'kept'})`
  })
  c.say('savepoint', ...(await other`SELECT id FROM contract ORDER BY id`).map((row) => row.id))
}

// A transaction that stays open until it is let go.
async function hold (sql) {
  let letGo
  const released = new Promise((resolve) => { letGo = resolve })
  let ended
  const pid = await new Promise((resolve, reject) => {
    ended = sql.begin(async (inner) => {
      resolve(await value(inner, 'SELECT pg_backend_pid()'))
      await released
    }).catch(reject)
  })
  return { pid, end: () => { letGo(); return ended } }
}

// Works while the backend `unwanted` is taken, so that whoever had it gets the other of two.
async function whileTaken (held, unwanted, work) {
  const holds = [await hold(held[0]), await hold(held[1])]
  await holds[holds.findIndex(({ pid }) => pid !== unwanted)].end()
  await work()
  await Promise.all(holds.map((each) => each.end()))
}

async function statementMoves () {
  const [one, ...held] = [connect(), connect(), connect()]
  const ask = async (sql, number) => (await sql.unsafe(c.statement, [number], { prepare: true }))[0]
  const found = [await ask(one, 0)]
  for (let number = 1; number < 5; number++) {
    await whileTaken(held, found.at(-1).pid, async () => { found.push(await ask(one, number)) })
  }
  c.say('values', ...found.map((row) => row.n))
  c.say('moves', c.moves(found.map((row) => row.pid)))
  await one.begin(async (sql) => {
    await ask(sql, 5)
    c.say('prepared', await value(sql, c.prepared))
  })
}

async function pipelined () {
  const one = connect()
  const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => one`SELECT ${n}::int AS n`))
  c.say('pipeline', answers.reduce((sum, [{ n }]) => sum + n, 0))
  const mixed = [1, 0, 2].map((divisor) => c.outcome(one`SELECT 6 / ${divisor}::int AS n`, ([{ n }]) => n))
  c.say('pipeline_error', ...await Promise.all(mixed), await value(one, 'SELECT 1'))
}

async function bigResults () {
  const one = connect()
  c.say('big', ...c.size(await one.unsafe(c.big)))
  const rows = []
  await one.unsafe(c.big).cursor(1000, (batch) => { rows.push(...batch) })
  c.say('cursor', ...c.size(rows))
}

async function copy () {
  const one = connect()
  await one.unsafe(c.table)
  await pipeline(Readable.from([c.lines]), await one`COPY contract FROM STDIN`.writable())
  const out = await (await one`COPY (SELECT * FROM contract ORDER BY id) TO STDOUT`.readable()).toArray()
  c.say('copy', await value(one, 'SELECT count(*) FROM contract'), Buffer.concat(out).toString() === c.lines)
}

async function errors () {
  const one = connect()
  c.say('error', await c.outcome(one`SELECT 1 / ${0}::int`), await value(one, 'SELECT 1'))
  const found = []
  await c.outcome(one.begin(async (sql) => {
    found.push(await c.outcome(sql`SELECT 1 / ${0}::int`))
    found.push(await c.outcome(sql`SELECT 1`))
  }))
  c.say('error_in_transaction', ...found, await value(one, 'SELECT 1'))
}

async function cancel () {
  const [one, other] = [connect(), connect()]
  const query = one.unsafe(c.sleep).execute()
  const ended = c.outcome(query)
  await c.until(async () => await value(other, c.sleeps) === 1)
  query.cancel()
  c.say('cancel', await ended, await value(one, 'SELECT 1'))
}

async function notify () {
  const [one, other] = [connect(), connect()]
  const told = await new Promise((resolve, reject) => {
    one.listen('contract', resolve).then(() => other.notify('contract', 'told')).catch(reject)
  })
  c.say('notify', 'contract', told)
}

async function changed () {
  const [one, other] = [connect(), connect()]
  const held = await hold(connect()) // so that a pool of two has one backend left for the two others
  await other.unsafe(c.table)
  await other.unsafe("INSERT INTO contract VALUES (1, 'x')")
  const ask = () => one.unsafe(`SELECT * FROM contract WHERE id = $1 -- ${c.driver}`, [1], { prepare: true })
  const width = () => c.outcome(ask(), ([row]) => Object.keys(row).length)
  const found = [await width(), await width()]
  await other.unsafe('ALTER TABLE contract ADD added int')
  c.say('changed', ...found, await width(), await width())
  await held.end()
}

// The same where the backend that first runs it afterwards has not seen it before.
async function changedElsewhere (step, change, of) {
  const [one, ...held] = [connect(), connect(), connect()]
  await held[0].unsafe(c.table)
  await held[0].unsafe("INSERT INTO contract VALUES (1, 'x')")
  const text = `SELECT *, pg_backend_pid() AS pid FROM contract WHERE text = $1 -- ${c.driver} ${step}`
  const ask = () => one.unsafe(text, ['x'], { prepare: true })
  const attempt = () => c.outcome(ask(), ([row]) => of(row))
  const [{ pid }] = await ask()
  const found = [await attempt()]
  await held[0].unsafe(`ALTER TABLE contract ${change}`)
  await whileTaken(held, pid, async () => { found.push(await attempt(), await attempt()) })
  c.say(step, ...found)
}

async function widenedElsewhere () {
  await changedElsewhere('widened_elsewhere', 'ADD added int', (row) => Object.keys(row).length)
}

async function retypedElsewhere () {
  await changedElsewhere('retyped_elsewhere', 'ALTER id TYPE bigint', (row) => row.id)
}

c.run([transactions, statementMoves, pipelined, bigResults, copy, errors, cancel, notify, changed, widenedElsewhere,
  retypedElsewhere], close)
