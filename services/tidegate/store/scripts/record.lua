-- The record: a stream for each client and one of all clients, with the newest events.

-- arguments: how many events a stream keeps, its lifetime after the last one in seconds, then for each
--   event its stream and the event
-- result: how many were added
local function record(i, last)
  local most, lifetime, before = ARGV[i], ARGV[i + 1], nil
  for n = i + 2, last, 2 do
    local stream = ARGV[n]
    call('XADD', stream, 'MAXLEN', most, '*', 'e', ARGV[n + 1])
    if stream ~= before then call('EXPIRE', stream, lifetime) end
    before = stream
  end
  return (last - i - 1) / 2
end
