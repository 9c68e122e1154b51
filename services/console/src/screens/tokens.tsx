import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import type { TokenInfo } from '../api/broker_types'
import { ApiError, post, remove } from '../api/client'
import type { Role } from '../api/types'
import { useList } from '../api/use'
import { sentence } from '../format'
import { t } from '../texts'
import { confirmed } from '../ui/act'
import { Dialog } from '../ui/dialog'
import { Age, Badge, Button, Card, Choice, Code, Empty, Gaps, Heading, Loading, More, Notice, Table, Text, type Column } from '../ui/kit'

type Length = '3600' | '86400' | '2592000' | '31536000' | ''

function NewToken({ onClose }: { onClose: () => void }): JSX.Element {
  const [name, setName] = useState('')
  const [role, setRole] = useState<Role>('viewer')
  const [length, setLength] = useState<Length>('2592000')
  const [made, setMade] = useState<string | undefined>()
  const [failure, setFailure] = useState<string | undefined>()
  const texts = t.tokens
  const make = async (): Promise<void> => {
    try {
      const body = { name: name.trim(), role, lifetime_s: length ? Number(length) : null }
      setMade((await post<{ token: string }>('tokens', body)).token)
    } catch (error) {
      setFailure(sentence(error instanceof ApiError ? error.message : String(error)))
    }
  }
  return (
    <Dialog title={texts.add} onClose={onClose}>
      <form onSubmit={event => { event.preventDefault(); void make() }}>
        <div class="dialog-body">
          {made ? (
            <>
              <Notice tone="warning">{texts.once}</Notice>
              <Code copy>{made}</Code>
            </>
          ) : (
            <>
              <Text label={texts.name} value={name} onInput={setName} hint={texts.nameHint} required />
              <Choice label={texts.role} value={role} options={texts.roles} onChange={setRole} />
              <Choice label={texts.length} value={length} options={texts.lengths} onChange={setLength} />
              {failure && <Notice tone="error">{failure}</Notice>}
            </>
          )}
        </div>
        <div class="dialog-foot">
          <Button onClick={onClose}>{made ? t.close : t.cancel}</Button>
          {!made && <Button kind="primary" type="submit" disabled={!name.trim()}>{texts.make}</Button>}
        </div>
      </form>
    </Dialog>
  )
}

export function Tokens(): JSX.Element {
  const list = useList<TokenInfo>('tokens')
  const [adding, setAdding] = useState(false)
  const texts = t.tokens
  const drop = (token: TokenInfo): void => {
    void confirmed({ title: texts.deleteTitle(token.name), effects: texts.deleteEffects, action: texts.delete },
      async () => await remove(`tokens/${encodeURIComponent(token.id)}`), texts.deleted(token.name)).then(done => { if (done) list.refresh() })
  }
  const columns: Column<TokenInfo>[] = [
    { head: texts.name, cell: token => <span class="strong">{token.name}</span> },
    { head: texts.role, cell: token => <Badge tone={token.role === 'admin' ? 'accent' : 'quiet'}>{token.role}</Badge> },
    { head: texts.made, minor: true, cell: token => token.from_file ? texts.fromFile : <>{token.created_by}<small><Age at={token.created_at} /></small></> },
    { head: texts.ends, cell: token => token.expires_at ? <Age at={token.expires_at} /> : texts.never },
    { head: '', right: true, cell: token => !token.from_file && <Button small onClick={() => { drop(token) }}>{texts.delete}</Button> }
  ]
  return (
    <>
      <Heading title={t.nav.tokens} lead={texts.lead}>
        <Button kind="primary" icon="plus" onClick={() => { setAdding(true) }}>{texts.add}</Button>
      </Heading>
      <Gaps missing={list.data?.missing} error={list.error} stale={Boolean(list.data)} />
      <Card flush>
        {list.data ? <Table name={t.nav.tokens} columns={columns} items={list.data.items} id={token => token.id}
          empty={<Empty title={texts.none}>{texts.noneHint}</Empty>} /> : !list.error && <Loading />}
        <More more={list.more} busy={list.busy} shown={list.data?.items.length ?? 0} />
      </Card>
      {adding && <NewToken onClose={() => { setAdding(false); list.refresh() }} />}
    </>
  )
}
