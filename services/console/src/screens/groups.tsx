import type { JSX } from 'preact'
import type { GroupMember, SharedGroup, SharedGroupDetail } from '../api/types'
import { useApi, useList } from '../api/use'
import { count } from '../format'
import { href } from '../route'
import { t } from '../texts'
import { Badge, Card, Code, Empty, Gaps, Heading, Loading, More, Notice, Table, type Column } from '../ui/kit'
import { ClientLink, StateBadge } from './clients'

const GROUP_COLUMNS: Column<SharedGroup>[] = [
  { head: t.groups.group, cell: one => <a class="strong break" href={href(['groups', one.name])}>{one.share_name}</a> },
  { head: t.groups.filter, cell: one => <code>{one.filter}</code> },
  { head: t.groups.members, right: true, cell: one => count(one.members) },
  {
    head: t.groups.connected, right: true,
    cell: one => <Badge tone={one.connected === 0 ? 'warning' : 'ok'}>{count(one.connected)}</Badge>
  }
]

export function Groups(): JSX.Element {
  const list = useList<SharedGroup>('shared-groups')
  return (
    <>
      <Heading title={t.nav.groups} lead={t.groups.lead} />
      <Gaps missing={list.data?.missing} error={list.error} stale={Boolean(list.data)} />
      <Card flush>
        {list.data ? <Table name={t.nav.groups} columns={GROUP_COLUMNS} items={list.data.items} id={one => one.name}
          empty={<Empty title={t.groups.none}>{t.groups.noneHint}</Empty>} /> : !list.error && <Loading />}
        <More more={list.more} busy={list.busy} shown={list.data?.items.length ?? 0} />
      </Card>
    </>
  )
}

const MEMBER_COLUMNS: Column<GroupMember>[] = [
  { head: t.clients.client, cell: one => <ClientLink id={one.client_id} mountPoint={one.mount_point} /> },
  { head: t.clients.state, cell: one => <StateBadge state={one.state} /> },
  { head: t.groups.edge, cell: one => one.edge ?? '–' },
  { head: 'QoS', right: true, cell: one => one.qos },
  { head: t.groups.durable, cell: one => (one.durable ? t.yes : t.no), minor: true },
  {
    head: t.groups.unacknowledged, right: true,
    cell: one => one.unacknowledged == null ? '–' : `${one.is_least ? '≥ ' : ''}${count(one.unacknowledged)}`
  }
]

export function Group({ name }: { name: string }): JSX.Element {
  const { data, error } = useApi<SharedGroupDetail>(`shared-groups/${encodeURIComponent(name)}`, {}, 3000)
  return (
    <>
      <Heading back={{ href: href(['groups']), text: t.nav.groups }} title={<Code>{data?.share_name ?? name}</Code>}
        lead={data && <>{t.groups.of} <code>{data.filter}</code></>} />
      <Gaps missing={data?.missing} error={error} stale={Boolean(data)} />
      {!data && !error && <Loading />}
      {data && data.members.length > 0 && data.members.every(one => one.state === 'offline') &&
        <Notice tone="warning">{t.groups.allOffline}</Notice>}
      {data && (
        <Card title={t.groups.members} extra={t.groups.order} flush>
          <Table name={t.groups.members} columns={MEMBER_COLUMNS} items={data.members} id={one => `${one.mount_point}\n${one.client_id}`}
            empty={<Empty title={t.groups.noMembers} />} />
          {data.more && <p class="more quiet-text">{t.groups.more}</p>}
        </Card>
      )}
    </>
  )
}
