-- Decides commands on slots and queues, one after the other, as tenantguard/rules/slots.py says. That file explains
-- what is done here; the names are the same. Instants are whole microseconds of the server's clock, guesses whole
-- nanoseconds: integers that a double holds exactly.
--
-- KEYS[1] is the one hash, of places, lines and tickets; all other keys begin with it, and have its hash tag:
--   :queues     tickets that wait: line, number, id; a sorted set read by the letter, as are those that follow
--   :lines      lines that wait: place, start tag, number of the first ticket, line
--   :owned      all tickets: process, number, id
--   :due        tickets that wait, by the instant at which they give up
--   :processes  processes, by the instant at which their lease ends
--   :turns:     and a place: the finish tags of its owners
--   :news:      and a process: what was decided of its tickets by a command of another; a list that it reads
--   =           and an id: it was ended before it was seen
-- ARGV: the instant in a test, else ''; the last microsecond at which somebody may still enter, else ''; commands.
-- wire.py lays out commands and answers.
--
-- What is not whole any more, since keys were evicted, deleted or written by others, is forgotten, all of it, and the
-- commands are decided as on a server that was flushed: processes teach it again with their next beats. So it is where
-- the clock is set back by more than a minute; by less, time stands still meanwhile.

local call, pack, read, mp, um = redis.call, struct.pack, struct.unpack, cmsgpack.pack, cmsgpack.unpack
local floor, max, min, sub = math.floor, math.max, math.min, string.sub
local SHARE = 720720
local BARRED_MS, NEWS_MS, SLACK_MS, TURNS_MS = 60000, 60000, 60000, 3600000
local AHEAD_US = 60e6
local FULL, QUEUE_FULL, DEADLINE, WAITED, ENDED = 1, 2, 3, 4, 5

local base = KEYS[1]
local QUEUES, LINES, OWNED = base .. ':queues', base .. ':lines', base .. ':owned'
local DUE, PROCESSES, TURNS, NEWS = base .. ':due', base .. ':processes', base .. ':turns:', base .. ':news:'

local now
if ARGV[1] == '' then
  local t = call('TIME')
  now = t[1] * 1e6 + t[2]
else
  now = read('<d', ARGV[1])
end
local late = ARGV[2] ~= '' and now > tonumber(ARGV[2])
local asked = ARGV[3]

local m  -- the latest instant, the last fence, the last number, how many wait
local places, lines, tickets  -- what was read or made; false: it is not there
local caller, lease, ticked, changed, mine, others, lapsed, out

local function big(n)
  return pack('>I8', n)
end

local function loaded(cache, kind, id)
  local found = cache[id]
  if found == nil then
    local raw = call('HGET', base, kind .. id)
    found = raw and um(raw) or false
    cache[id] = found
  end
  return found
end

-- A place: limit, held, origin, the sum of its holders' instants since then, waiting, owners, lines, virtual time,
-- whether it has finish tags
local LIMIT, HELD, ORIGIN, SINCE, WAITING, OWNERS, COUNT, VIRTUAL, TURNED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local function place(id)
  local p = loaded(places, 'p', id)
  if not p then
    p = {0, 0, now, 0, 0, 0, 0, 0, 0}
    places[id] = p
  end
  return p
end

-- A ticket: number, line, since, deadline, fence (0: it waits), how long it waited, process, places, owner, its keys
local NUMBER, LINE, CAME, UNTIL, FENCE, HAS_WAITED, PROCESS, PLACES, OWNER, SHOWN = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
-- A line: owner, places, weights, where it waits, start tag, number of the first ticket, how many
local L_OWNER, L_PLACES, WEIGHTS, AT, TAG, FIRST, LENGTH = 1, 2, 3, 4, 5, 6, 7

local function each(ids)
  local at = -15
  return function()
    at = at + 16
    if at <= #ids then
      return sub(ids, at, at + 15), (at + 15) / 16
    end
  end
end

local function is_full(p)
  return p[HELD] >= p[LIMIT]
end

local function expected(p, id, owner)
  if p[HELD] == 0 then
    return 0
  end
  local age = floor((p[HELD] * (now - p[ORIGIN]) - p[SINCE]) * 1000 / p[HELD])
  local own = tonumber(call('HGET', base, 'o' .. id .. owner) or 0)
  return floor((min(p[WAITING], own * p[OWNERS]) + 1) * age / p[LIMIT])
end

local function crowded(reason, failing, ids, owner)
  local longest = 0
  for _, index in ipairs(failing) do
    local id = sub(ids, 16 * index + 1, 16 * index + 16)
    longest = max(longest, expected(place(id), id, owner))
  end
  return 'c' .. pack('<BBd', reason, #failing, longest) .. string.char(unpack(failing))
end

local function entered(t)
  return 'e' .. pack('<dd', t[FENCE], t[HAS_WAITED])
end

local function waits(t)
  return 'w' .. pack('<dd', t[NUMBER], t[UNTIL] - now)
end

local function tell(id, t, outcome)
  local process, item = t[PROCESS], id .. pack('<d', t[NUMBER]) .. outcome
  if lapsed[process] then  -- it asks when it comes back
    return
  elseif process == caller then
    mine[#mine + 1] = item
  else
    others[process] = (others[process] or '') .. item
  end
end

local function entry(id, line)
  return line[AT] .. big(line[TAG]) .. big(line[FIRST]) .. id
end

local function first(key, prefix)
  return call('ZRANGEBYLEX', key, '[' .. prefix, '(' .. prefix .. '\1', 'LIMIT', 0, 1)[1]
end

local function first_number(id)
  return (read('>I8', first(QUEUES, id), 17))
end

local function unlist(id, line)
  if call('ZREM', LINES, entry(id, line)) == 0 then
    error('a line is not where it waits')  -- and who serves would look for it for ever
  end
end

-- A line stands somewhere else in the order of its place from now on.
local function push(id, line, tag)
  unlist(id, line)
  line[TAG], line[FIRST] = tag, first_number(id)
  call('ZADD', LINES, 0, entry(id, line))
end

local function finished(id, owner)
  return place(id)[TURNED] == 1 and tonumber(call('ZSCORE', TURNS .. id, owner) or 0) or 0
end

local function join(id, line, where)
  local p = place(where)
  line[AT], line[TAG], line[FIRST] = where, max(p[VIRTUAL], finished(where, line[L_OWNER])), first_number(id)
  p[COUNT] = p[COUNT] + 1
  call('ZADD', LINES, 0, entry(id, line))
end

local function forget_turns(id, p)
  if p[TURNED] == 1 then
    call('DEL', TURNS .. id)
    p[VIRTUAL], p[TURNED] = 0, 0
  end
end

local function part(id, line)
  local p = place(line[AT])
  p[COUNT] = p[COUNT] - 1
  unlist(id, line)
end

local function dequeue(id, t, line)
  call('ZREM', QUEUES, t[LINE] .. big(t[NUMBER]) .. id)
  call('ZREM', DUE, big(t[NUMBER]) .. id)
  line[LENGTH] = line[LENGTH] - 1
  m[4] = m[4] - 1
  for where in each(line[L_PLACES]) do
    local p = place(where)
    p[WAITING] = p[WAITING] - 1
    local field = 'o' .. where .. line[L_OWNER]
    if call('HINCRBY', base, field, -1) == 0 then
      call('HDEL', base, field)
      p[OWNERS] = p[OWNERS] - 1
    end
  end
end

local function add(id, t)
  tickets[id] = t
  call('ZADD', OWNED, 0, t[PROCESS] .. big(t[NUMBER]) .. id)
end

local function number()
  m[3] = m[3] + 1
  return m[3]
end

local function inside(t, since)
  t[CAME] = since
  for where in each(t[PLACES]) do
    local p = place(where)
    p[HELD] = p[HELD] + 1
    p[SINCE] = p[SINCE] + since - p[ORIGIN]
  end
end

-- Fences grow with time as well, so that a server that forgot does not begin again.
local function enter_now(t)
  m[2] = max(m[2] + 1, now)
  t[FENCE], t[HAS_WAITED] = m[2], now - t[CAME]
  inside(t, now)
  return entered(t)
end

local function serve(where)
  local p = place(where)
  while p[COUNT] > 0 and not is_full(p) do
    local member = first(LINES, where)
    local tag, id = read('>I8', member, 17), sub(member, 33)
    local line = loaded(lines, 'l', id)
    local due = finished(where, line[L_OWNER])
    local blocking
    for other in each(line[L_PLACES]) do
      if is_full(place(other)) then
        blocking = other
        break
      end
    end
    if due > tag then
      push(id, line, due)
    elseif blocking then
      part(id, line)
      join(id, line, blocking)
    else
      local waiting = first(QUEUES, id)
      local ticket = sub(waiting, 25)
      local t = loaded(tickets, 't', ticket)
      local weight
      for other, index in each(line[L_PLACES]) do
        if other == where then
          weight = line[WEIGHTS][index]
        end
      end
      p[VIRTUAL] = tag
      local turns = TURNS .. where
      if p[TURNED] == 0 then
        call('DEL', turns)  -- of a place that was forgotten
      end
      call('ZADD', turns, tag + floor(SHARE / weight), line[L_OWNER])
      call('ZREMRANGEBYSCORE', turns, '-inf', tag)
      call('PEXPIRE', turns, TURNS_MS)
      p[TURNED] = 1
      dequeue(ticket, t, line)
      t[LINE] = ''
      tell(ticket, t, enter_now(t))
      if line[LENGTH] > 0 then
        push(id, line, finished(where, line[L_OWNER]))
      else
        part(id, line)
        lines[id] = false
      end
    end
  end
  if p[COUNT] == 0 then
    forget_turns(where, p)
  end
end

-- Take a ticket away, wherever it is; nobody is served yet.
local function remove(id, t)
  tickets[id] = false
  call('ZREM', OWNED, t[PROCESS] .. big(t[NUMBER]) .. id)
  if t[FENCE] > 0 then
    for where in each(t[PLACES]) do
      local p = place(where)
      p[HELD] = p[HELD] - 1
      p[SINCE] = p[SINCE] - (t[CAME] - p[ORIGIN])
    end
    return
  end
  local line = loaded(lines, 'l', t[LINE])
  local was_first = line[FIRST] == t[NUMBER]
  dequeue(id, t, line)
  if line[LENGTH] == 0 then
    part(t[LINE], line)
    local p = place(line[AT])
    if p[COUNT] == 0 then
      forget_turns(line[AT], p)
    end
    lines[t[LINE]] = false
  elseif was_first then
    push(t[LINE], line, line[TAG])
  end
end

local function serve_all(ids)
  for where in each(ids) do
    serve(where)
  end
end

local function give_up(id, t)
  remove(id, t)
  local failing = {}
  for where, index in each(t[PLACES]) do
    if is_full(place(where)) then
      failing[#failing + 1] = index - 1
    end
  end
  tell(id, t, crowded(t[UNTIL] <= now and WAITED or ENDED, failing, t[PLACES], t[OWNER]))
end

-- End what has waited too long or lost its lease.
local function tick()
  ticked, changed = true, true
  local due = {}
  local given_up = call('ZRANGEBYSCORE', DUE, '-inf', now, 'WITHSCORES')
  for i = 1, #given_up, 2 do
    due[#due + 1] = {tonumber(given_up[i + 1]), given_up[i]}
  end
  local lost = call('ZRANGEBYSCORE', PROCESSES, '-inf', now, 'WITHSCORES')
  for i = 1, #lost, 2 do
    lapsed[lost[i]] = true
    call('ZREM', PROCESSES, lost[i])
    for _, member in ipairs(call('ZRANGEBYLEX', OWNED, '[' .. lost[i], '(' .. lost[i] .. '\1')) do
      due[#due + 1] = {tonumber(lost[i + 1]), sub(member, 17)}
    end
  end
  table.sort(due, function(a, b)
    return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
  end)
  local left = {}
  for _, one in ipairs(due) do
    local id = sub(one[2], 9)
    local t = loaded(tickets, 't', id)
    if t and t[FENCE] > 0 then
      remove(id, t)
      left[#left + 1] = t
    elseif t then
      give_up(id, t)
    end
  end
  lapsed = {}
  for _, t in ipairs(left) do
    serve_all(t[PLACES])
  end
end

local function begin(process, lease_us)
  caller = process
  if lease_us > lease then
    lease = lease_us
  end
  if not ticked then
    tick()
    call('ZADD', PROCESSES, now + lease, process)
  end
end

local function answer(text)
  out[#out + 1] = pack('<I4', #mine) .. table.concat(mine) .. text
  mine = {}
end

-- The places of claims, with the limits that these say; who waits is served first where there is more.
local function limited(claims)
  local raised = {}
  for _, claim in ipairs(claims) do
    local p = place(claim[1])
    if p[LIMIT] < claim[2] then
      raised[#raised + 1] = claim[1]
    end
    p[LIMIT] = claim[2]
  end
  for _, where in ipairs(raised) do
    serve(where)
  end
end

local function decide(id, line_id, process, owner, shown, claims, ids, deadline_ns, waiting_max)
  local full, closed = {}, {}
  local wait = math.huge
  for index, claim in ipairs(claims) do
    local p = place(claim[1])
    if is_full(p) then
      full[#full + 1] = index - 1
    end
    if claim[3] == 0 then
      if p[HELD] + p[WAITING] >= p[LIMIT] then
        closed[#closed + 1] = index - 1
      end
    else
      wait = min(wait, claim[4])
    end
  end
  if #closed > 0 then
    return crowded(FULL, closed, ids, owner)
  end
  local t = {0, '', now, 0, 0, 0, process, ids, owner, shown}
  if #full == 0 then
    t[NUMBER] = number()
    add(id, t)
    return enter_now(t)
  end
  if wait <= 0 then
    return crowded(FULL, full, ids, owner)
  end
  local crammed, longest = {}, 0
  for _, index in ipairs(full) do
    local where = claims[index + 1][1]
    if tonumber(call('HGET', base, 'o' .. where .. owner) or 0) >= claims[index + 1][3] then
      crammed[#crammed + 1] = index
    end
    longest = max(longest, expected(place(where), where, owner))
  end
  if #crammed > 0 or m[4] >= waiting_max then
    return crowded(QUEUE_FULL, #crammed > 0 and crammed or full, ids, owner)
  end
  if deadline_ns then
    if deadline_ns <= 0 or longest > deadline_ns then
      return crowded(DEADLINE, full, ids, owner)
    end
    wait = min(wait, math.ceil(deadline_ns / 1000))
  end
  t[NUMBER], t[LINE], t[UNTIL] = number(), line_id, now + wait
  add(id, t)
  local line = loaded(lines, 'l', line_id)
  local is_new = not line
  if is_new then
    line = {owner, ids, {}, '', 0, 0, 0}
    lines[line_id] = line
  end
  for index, claim in ipairs(claims) do
    line[WEIGHTS][index] = claim[5]
    local p = place(claim[1])
    p[WAITING] = p[WAITING] + 1
    if call('HINCRBY', base, 'o' .. claim[1] .. owner, 1) == 1 then
      p[OWNERS] = p[OWNERS] + 1
    end
  end
  line[LENGTH] = line[LENGTH] + 1
  m[4] = m[4] + 1
  call('ZADD', QUEUES, 0, line_id .. big(t[NUMBER]) .. id)
  call('ZADD', DUE, t[UNTIL], big(t[NUMBER]) .. id)
  if is_new then
    join(line_id, line, claims[full[1] + 1][1])
  end
  return waits(t)
end

-- e: byte whether it is inside already, process, lease, id, line, waiting_max, deadline, for how long it is inside,
-- fence, claims; owner, keys; of each claim its place, limit, queue, wait, weight
local function enter(pos)
  local held, process, lease_us, id, line_id, waiting_max, deadline_ns, age, fence, n, owner, shown
  held, process, lease_us, id, line_id, waiting_max, deadline_ns, age, fence, n, owner, shown, pos =
    read('<Bc16dc16c16ddddBHc0Hc0', asked, pos)
  local claims, ids = {}, {}
  for index = 1, n do
    local where, limit, queue, wait, weight
    where, limit, queue, wait, weight, pos = read('<c16dddd', asked, pos)
    claims[index], ids[index] = {where, limit, queue, wait, weight}, where
  end
  ids = table.concat(ids)
  begin(process, lease_us)
  local known = loaded(tickets, 't', id)
  if known then
    answer(known[FENCE] > 0 and entered(known) or waits(known))
  elseif call('EXISTS', base .. '=' .. id) == 1 then
    answer(crowded(ENDED, {}, ids, owner))
  elseif late and held == 0 then
    answer('l')
  else
    limited(claims)
    if held == 1 then
      local t = {number(), '', 0, 0, fence, 0, process, ids, owner, shown}
      m[2] = max(m[2], fence)
      add(id, t)
      inside(t, now - age)
      answer(entered(t))
    else
      if deadline_ns ~= deadline_ns then  -- none
        deadline_ns = nil
      end
      answer(decide(id, line_id, process, owner, shown, claims, ids, deadline_ns, waiting_max))
    end
  end
  return pos
end

-- l: process, lease, id
local function leave(pos)
  local process, lease_us, id
  process, lease_us, id, pos = read('<c16dc16', asked, pos)
  begin(process, lease_us)
  local t = loaded(tickets, 't', id)
  if t then
    remove(id, t)
    if t[FENCE] > 0 then
      serve_all(t[PLACES])
    end
  else
    call('SET', base .. '=' .. id, '', 'PX', BARRED_MS)
  end
  answer('')
  return pos
end

-- b: process, lease, ids; how many processes there are, and where these ids stand
local function beat(pos)
  local process, lease_us, ids
  process, lease_us, ids, pos = read('<c16dHc0', asked, pos)
  begin(process, lease_us)
  local found = {}
  for id, index in each(ids) do
    local t = loaded(tickets, 't', id)
    found[index] = not t and 'u' or t[FENCE] > 0 and entered(t) or waits(t)
  end
  answer(pack('<d', call('ZCARD', PROCESSES)) .. table.concat(found))
  return pos
end

-- v: how many, after which; how many there are, and of each: after which the next is, byte whether it is inside, for
-- how long, owner, keys
local function view(pos)
  local most, after
  most, after, pos = read('<dHc0', asked, pos)
  local members = call('ZRANGEBYLEX', OWNED, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, most)
  local found = {pack('<I4', #members)}
  for _, member in ipairs(members) do
    local t = loaded(tickets, 't', sub(member, 25))
    found[#found + 1] = member
      .. pack('<BdHc0Hc0', t[FENCE] > 0 and 1 or 0, now - t[CAME], #t[OWNER], t[OWNER], #t[SHOWN], t[SHOWN])
  end
  answer(table.concat(found))
  return pos
end

local kinds = {e = enter, l = leave, b = beat, v = view}

local function decide()
  local pos = 1
  while pos <= #asked do
    pos = kinds[sub(asked, pos, pos)](pos + 1)
  end
end

local is_broken = false
repeat
  local is_read, kept = pcall(um, redis.pcall('HGET', base, 'm'))
  m = is_read and kept or {0, 0, 0, 0}
  if is_broken or not is_read or m[1] - now > AHEAD_US then
    for id in pairs(places or {}) do
      call('DEL', TURNS .. id)
    end
    for process in pairs(others or {}) do
      call('DEL', NEWS .. process)
    end
    call('DEL', base, QUEUES, LINES, OWNED, DUE, PROCESSES)
    m = {0, m[2], 0, 0}
  end
  now = max(now, m[1])
  places, lines, tickets = {}, {}, {}
  caller, lease, ticked, changed, mine, others, lapsed = nil, 0, false, false, {}, {}, {}
  out = {pack('<dd', now, 0)}
  local is_done, problem = pcall(decide)
  if not is_done then
    local refused = type(problem) == 'table' and problem.err or problem
    local by_server = refused ~= problem or sub(problem, 1, 1) == '@'  -- before Redis 7
    if is_broken or (by_server and not string.find(refused, 'WRONGTYPE', 1, true)) then
      return redis.error_reply(refused)  -- it is full, or may not write
    end
    is_broken = true
  end
until is_done

if changed then
  m[1] = now
  local sets, drops = {'m', mp(m)}, {}
  local function keep(field, value)
    if value then
      sets[#sets + 1], sets[#sets + 2] = field, mp(value)
    else
      drops[#drops + 1] = field
    end
  end
  for id, p in pairs(places) do
    keep('p' .. id, p and (p[HELD] > 0 or p[WAITING] > 0) and p)
  end
  for id, line in pairs(lines) do
    keep('l' .. id, line)
  end
  for id, t in pairs(tickets) do
    keep('t' .. id, t)
  end
  for at = 1, #sets, 2000 do
    call('HSET', base, unpack(sets, at, min(at + 1999, #sets)))
  end
  for at = 1, #drops, 2000 do
    call('HDEL', base, unpack(drops, at, min(at + 1999, #drops)))
  end
  for process, items in pairs(others) do
    call('RPUSH', NEWS .. process, items)
    call('PEXPIRE', NEWS .. process, NEWS_MS)
  end
  local keep_ms = math.ceil(2 * lease / 1000) + SLACK_MS
  for _, key in ipairs({base, QUEUES, LINES, OWNED, DUE, PROCESSES}) do
    call('PEXPIRE', key, keep_ms)
  end
end

return table.concat(out)
