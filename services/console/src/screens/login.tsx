import type { JSX } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { ApiError, login, refusedToken } from '../api/client'
import icon from '../icon.svg?url'
import { sentence } from '../format'
import { t } from '../texts'
import { Button, Notice, Segments, Text } from '../ui/kit'

export function Login(): JSX.Element {
  const [how, setHow] = useState<'user' | 'token'>(refusedToken.value ? 'token' : 'user')
  const [user, setUser] = useState('')
  const [secret, setSecret] = useState('')
  const [problem, setProblem] = useState<string | undefined>(refusedToken.value)
  const [busy, setBusy] = useState(false)
  const enter = async (credentials: Parameters<typeof login>[0]): Promise<void> => {
    setBusy(true)
    setProblem(undefined)
    try {
      await login(credentials)
    } catch (error) {
      setProblem(error instanceof ApiError ? error.message : String(error))
      setSecret('')
    }
    setBusy(false)
  }
  useEffect(() => {
    document.title = `${t.login.title} · ${t.product}`
  }, [])
  return (
    <main class="login">
      <div class="card">
        <div class="brand"><img src={icon} alt="" /><h1>{t.login.title}</h1></div>
        <p class="quiet-text">{how === 'user' ? t.login.lead : t.login.tokenLead}</p>
        <form onSubmit={event => {
          event.preventDefault()
          void enter(how === 'user' ? { user, password: secret } : { token: secret.trim() })
        }}>
          <Segments label={t.login.how} value={how} options={[['user', t.login.withPassword], ['token', t.login.withToken]]}
            onChange={value => { setHow(value); setSecret(''); setProblem(undefined) }} />
          {how === 'user' && <Text label={t.login.user} value={user} onInput={setUser} auto="username" required />}
          <Text label={how === 'user' ? t.login.password : t.login.token} type="password" value={secret} onInput={setSecret}
            auto={how === 'user' ? 'current-password' : 'off'} required />
          {problem && <Notice tone="error">{sentence(problem)}</Notice>}
          <Button kind="primary" type="submit" disabled={busy}>{busy ? t.login.busy : t.login.enter}</Button>
        </form>
      </div>
    </main>
  )
}
