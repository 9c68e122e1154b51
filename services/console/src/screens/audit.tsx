import type { JSX } from 'preact'
import type { AuditEntry } from '../api/broker_types'
import { useList } from '../api/use'
import { moment, words } from '../format'
import { t } from '../texts'
import { Age, Badge, Card, Empty, Gaps, Heading, Loading, More, Table, type Column } from '../ui/kit'

const TIMES = new Set(['until', 'expires_at', 'at'])

function shown(name: string, value: unknown): string {
  if (TIMES.has(name) && typeof value === 'number') return moment(value)
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

function detail(entry: AuditEntry): string {
  return Object.entries(entry.detail)
    .filter(([, value]) => value !== '' && value !== null)
    .map(([name, value]) => `${words(name).toLowerCase()} ${shown(name, value)}`).join(', ')
}

const COLUMNS: Column<AuditEntry>[] = [
  { head: t.audit.when, cell: entry => <span title={moment(entry.at)}><Age at={entry.at} /></span> },
  { head: t.audit.who, cell: entry => <><span class="strong">{entry.user}</span><small>{entry.role}</small></> },
  { head: t.audit.what, cell: entry => <>{words(entry.action)}{entry.target && <> <code>{entry.target}</code></>}{detail(entry) && <small>{detail(entry)}</small>}</> },
  { head: t.audit.outcome, cell: entry => <Badge tone={entry.outcome === 'done' ? 'ok' : 'error'}>{words(entry.outcome)}</Badge> },
  { head: t.audit.from, minor: true, cell: entry => entry.address || '–' }
]

export function Audit(): JSX.Element {
  const list = useList<AuditEntry>('audit')
  return (
    <>
      <Heading title={t.nav.audit} lead={t.audit.lead} />
      <Gaps missing={list.data?.missing} error={list.error} stale={Boolean(list.data)} />
      <Card flush>
        {list.data ? <Table name={t.nav.audit} columns={COLUMNS} items={list.data.items} id={entry => entry.id}
          empty={<Empty title={t.audit.none}>{t.audit.noneHint}</Empty>} /> : !list.error && <Loading />}
        <More more={list.more} busy={list.busy} shown={list.data?.items.length ?? 0} />
      </Card>
    </>
  )
}
