-- Decides commands on token buckets, one after the other, as tenantguard/rules/bucket.py says: to the attosecond.
--
-- An instant or a span is two numbers: whole microseconds, and the attoseconds beyond them, fewer than 1e12. Both are
-- integers that a double holds exactly (spans are two centuries at most), so nothing is ever rounded.
--
-- A bucket is its TAT, in two doubles; while takes of it can still be given back there follow how many, the last
-- microsecond at which one can, and the dips: of each its instant and its backlog. A grant is the instant of its
-- taking, and a byte for each take: 1 where something was taken. '-' bars its id.
--
-- KEYS: of each command in turn its id, where it has one, and then the bucket of each of its takes.
-- ARGV: the instant in a test, else ''; the last microsecond at which something may still be taken, else ''; commands.
-- Everything is read before the first decision and written after the last. wire.py lays out commands and answers.

local call, pack, read = redis.call, struct.pack, struct.unpack
local floor, max, min = math.floor, math.max, math.min
local W = 1e12
local LAST = 2 ^ 53  -- no instant is as late
local GRANT_US, GRANT_MS, BAR_MS = 3600e6, 3600e3, 60e3
local SLACK_MS = ARGV[1] == '' and 1000 or 3600e3  -- keys expire by the server's time, which is no test's
local DIPS_MIN, DIPS_MAX = 16, 256

local now, now_lo = 0, 0
if ARGV[1] == '' then
  local t = call('TIME')
  now = t[1] * 1e6 + t[2]
else
  now, now_lo = read('<dd', ARGV[1])
end
local late = ARGV[2] ~= '' and now > tonumber(ARGV[2])
local asked = ARGV[3]

local forms = {}
local function form(n)
  local f = forms[n]
  if not f then
    f = '<' .. string.rep('d', n)
    forms[n] = f
  end
  return f
end

local values = call('MGET', unpack(KEYS))
local buckets, grants, changed = {}, {}, {}
local out = {pack('<dd', now, now_lo)}
local at = 1  -- the key that comes next

local function cut(b, n)
  for i = #b, n + 1, -1 do
    b[i] = nil
  end
end

local function bucket(i)
  local key = KEYS[i]
  local b = buckets[key]
  if not b then
    local raw = values[i]
    local hi, lo
    if raw and #raw >= 16 then
      hi, lo = read('<dd', raw)
    end
    if not hi or not (hi >= 0 and hi < LAST and lo >= 0 and lo < W) or #raw % 16 > 0 then
      b = {0, 0, 0, 0}  -- none yet; or no bucket, but of another program, and not to be served with the rest
    elseif #raw == 16 then
      b = {hi, lo, 0, 0}
    else
      local n = #raw / 8
      b = {read(form(n), raw)}
      b[n + 1] = nil
      if b[4] < now then
        b = {b[1], b[2], 0, 0}
      end
    end
    buckets[key] = b
  end
  return b, key
end

local function grant(i)
  local key = KEYS[i]
  local g = grants[key]
  if g == nil then
    g = values[i] or false
    grants[key] = g
  end
  return g, key
end

local function before(a, a_lo, b, b_lo)
  return a < b or (a == b and a_lo < b_lo)
end

local function plus(a, a_lo, b, b_lo)
  local lo = a_lo + b_lo
  if lo >= W then
    return a + b + 1, lo - W
  end
  return a + b, lo
end

local function minus(a, a_lo, b, b_lo)
  local lo = a_lo - b_lo
  if lo < 0 then
    return a - b - 1, lo + W
  end
  return a - b, lo
end

local function times(a, a_lo, n)
  local low = a_lo % 1e6
  local t = low * n
  local t_low = t % 1e6
  t = (a_lo - low) / 1e6 * n + (t - t_low) / 1e6
  local t_high = t % 1e6
  return a * n + (t - t_high) / 1e6, t_high * 1e6 + t_low
end

local function backlog(hi, lo)
  if before(now, now_lo, hi, lo) then
    return minus(hi, lo, now, now_lo)
  end
  return 0, 0
end

-- The dips of a bucket of which something is about to be taken.
local function dip(b)
  local h, l = backlog(b[1], b[2])
  local n = #b
  while n > 4 and not before(b[n - 1], b[n], h, l) do
    n = n - 4
  end
  cut(b, n)
  if n > 4 and b[n - 3] == now and b[n - 2] == now_lo then
    return
  end
  if (n - 4) / 4 >= min(DIPS_MIN + b[3], DIPS_MAX) then
    b[n - 3], b[n - 2] = now, now_lo
  else
    b[n + 1], b[n + 2], b[n + 3], b[n + 4] = now, now_lo, h, l
  end
end

-- One take: the bucket is at hi, lo from now on.
local function draw(b, key, hi, lo, with_id)
  if b[3] > 0 then
    dip(b)
  end
  if with_id then
    b[3], b[4] = b[3] + 1, now + GRANT_US
  end
  b[1], b[2] = hi, lo
  changed[key] = true
end

local function give_back(b, need, need_lo, t, t_lo)
  local h, l = backlog(b[1], b[2])
  if before(h, l, need, need_lo) then
    need, need_lo = h, l
  end
  local n = #b
  local since = 5
  while since < n and not before(t, t_lo, b[since], b[since + 1]) do
    since = since + 4
  end
  if since < n and before(b[since + 2], b[since + 3], need, need_lo) then
    need, need_lo = b[since + 2], b[since + 3]
  end
  if need == 0 and need_lo == 0 then
    return
  end
  b[1], b[2] = minus(b[1], b[2], need, need_lo)
  if since > n then
    return
  end
  for i = since, n, 4 do
    b[i + 2], b[i + 3] = minus(b[i + 2], b[i + 3], need, need_lo)
  end
  local kept = since
  while kept > 5 and not before(b[kept - 2], b[kept - 1], b[since + 2], b[since + 3]) do
    kept = kept - 4
  end
  if kept < since then
    for i = since, n do
      b[kept + i - since] = b[i]
    end
    cut(b, n + kept - since)
  end
end

local function owe(b, more, more_lo, cap, cap_lo)
  local start, start_lo = b[1], b[2]
  if before(start, start_lo, now, now_lo) then
    start, start_lo = now, now_lo
  end
  local most, most_lo = plus(now, now_lo, cap, cap_lo)
  if before(most, most_lo, start, start_lo) then
    most, most_lo = start, start_lo
  end
  local to, to_lo = plus(start, start_lo, more, more_lo)
  if before(most, most_lo, to, to_lo) then
    to, to_lo = most, most_lo
  end
  if before(start, start_lo, to, to_lo) then
    dip(b)
    b[1], b[2] = to, to_lo
  end
end

local function answer(status, marks, n)
  local all = {}
  for i = 1, n do
    local b = bucket(at + i - 1)
    all[2 * i - 1], all[2 * i] = b[1], b[2]
  end
  at = at + n
  out[#out + 1] = status .. marks .. pack(form(2 * n), unpack(all))
end

-- t: byte whether it has an id, double n; of each take: byte whether it is a shadow, need, burst
local function take(pos)
  local with_id, n
  with_id, n, pos = read('<Bd', asked, pos)
  with_id = with_id == 1
  local g, g_key = false, nil
  if with_id then
    g, g_key = grant(at)
    at = at + 1
  end
  if late or g then
    local status, marks = 'e', string.rep('\0', n)
    if g and g ~= '-' then  -- it was taken before, and its answer was lost
      status, marks = 't', string.sub(g, 17)
    elseif late then
      status = 'l'
    end
    answer(status, marks, n)
    return pos + 33 * n
  end
  local marks, ends, taken, fits = {}, {}, {}, true
  for i = 1, n do
    local shadow, need, need_lo, burst, burst_lo
    shadow, need, need_lo, burst, burst_lo, pos = read('<Bdddd', asked, pos)
    local b, key = bucket(at + i - 1)
    local hi, lo = b[1], b[2]
    local j = taken[key]
    if j then
      hi, lo = ends[2 * j - 1], ends[2 * j]
    end
    marks[i] = '\0'
    if need > 0 or need_lo > 0 then
      local h, l = backlog(hi, lo)
      h, l = plus(h, l, need, need_lo)
      if not before(burst, burst_lo, h, l) then
        hi, lo = plus(now, now_lo, h, l)
        taken[key] = i
        marks[i] = '\1'
      elseif shadow == 1 then
        marks[i] = '\2'
      else
        fits = false
      end
    end
    ends[2 * i - 1], ends[2 * i] = hi, lo
  end
  if not fits then
    answer('r', string.rep('\0', n), n)
    return pos
  end
  for i = 1, n do
    if marks[i] == '\1' then
      local b, key = bucket(at + i - 1)
      draw(b, key, ends[2 * i - 1], ends[2 * i], with_id)
    end
  end
  local mark = table.concat(marks)
  if with_id then
    grants[g_key] = pack('<dd', now, now_lo) .. mark
    changed[g_key] = true
  end
  out[#out + 1] = 't' .. mark .. pack(form(2 * n), unpack(ends))
  at = at + n
  return pos
end

-- c: double least, most; a unit, burst. As t with an id and one take, of as many units as there are
local function take_chunk(pos)
  local least, most, unit, unit_lo, burst, burst_lo
  least, most, unit, unit_lo, burst, burst_lo, pos = read('<dddddd', asked, pos)
  local g, g_key = grant(at)
  local b, key = bucket(at + 1)
  local h, l = backlog(b[1], b[2])
  local units, need, need_lo = 0, 0, 0
  if not (late or g or before(burst, burst_lo, h, l)) then
    local free, free_lo = minus(burst, burst_lo, h, l)
    units = min(most, floor((free * W + free_lo) / (unit * W + unit_lo)) + 1)
    need, need_lo = times(unit, unit_lo, units)
    while before(free, free_lo, need, need_lo) do
      units = units - 1
      need, need_lo = times(unit, unit_lo, units)
    end
  end
  local status = 'r'
  if late then
    status = 'l'
  elseif g then
    status = 'e'
  elseif units >= least then
    status = 't'
    h, l = plus(h, l, need, need_lo)
    h, l = plus(now, now_lo, h, l)
    draw(b, key, h, l, true)
    grants[g_key] = pack('<dd', now, now_lo) .. '\1'
    changed[g_key] = true
  end
  at = at + 1
  answer(status, '\0', 1)
  out[#out + 1] = pack('<d', units)
  return pos
end

-- s: double n; of each take: byte whether it changes, need, used, the most that its bucket may be short of
local function settle(pos)
  local n
  n, pos = read('<d', asked, pos)
  local g, g_key = grant(at)
  at = at + 1
  changed[g_key] = true
  local known = g and g ~= '-'
  local t, t_lo = 0, 0
  if known then
    t, t_lo = read('<dd', g)
    known = now - t < GRANT_US
  end
  if known then
    for i = 1, n do
      local changes, need, need_lo, used, used_lo, cap, cap_lo
      changes, need, need_lo, used, used_lo, cap, cap_lo, pos = read('<Bdddddd', asked, pos)
      if changes == 1 and string.byte(g, 16 + i) == 1 then
        local b = bucket(at + i - 1)
        if before(need, need_lo, used, used_lo) then
          used, used_lo = minus(used, used_lo, need, need_lo)
          owe(b, used, used_lo, cap, cap_lo)
        else
          need, need_lo = minus(need, need_lo, used, used_lo)
          give_back(b, need, need_lo, t, t_lo)
        end
      end
    end
    for i = 1, n do
      if string.byte(g, 16 + i) == 1 then
        local b, key = bucket(at + i - 1)
        b[3] = max(b[3] - 1, 0)
        if b[3] == 0 then
          cut(b, 4)
        end
        changed[key] = true
      end
    end
    grants[g_key] = false
    answer('s', string.rep('\0', n), n)
  else
    pos = pos + 49 * n
    grants[g_key] = '-'
    answer('u', string.rep('\0', n), n)
  end
  return pos
end

-- f: the bucket is full from now on, and nothing that was taken of it before can be given back to it
local function refill(pos)
  local b, key = bucket(at)
  b[1], b[2] = now, now_lo
  if b[3] > 0 then
    cut(b, 4)
    dip(b)
  end
  changed[key] = true
  answer('s', '\0', 1)
  return pos
end

-- w: 16 bytes, whose process this is; how many there were within half a minute
local function count(pos)
  local key, seconds = KEYS[at], floor(now / 1e6)
  at = at + 1
  if call('TYPE', key).ok ~= 'zset' then
    call('DEL', key)
  end
  call('ZADD', key, seconds, string.sub(asked, pos, pos + 15))
  call('ZREMRANGEBYSCORE', key, '-inf', seconds - 30)
  call('EXPIRE', key, '60')
  out[#out + 1] = pack('<d', call('ZCARD', key))
  return pos + 16
end

local kinds = {t = take, c = take_chunk, s = settle, f = refill, w = count}
local pos = 1
while pos <= #asked do
  pos = kinds[string.sub(asked, pos, pos)](pos + 1)
end

for key in pairs(changed) do
  local b, g = buckets[key], grants[key]
  if b then
    local last, value = b[1], nil
    if b[3] > 0 then
      last = max(last, b[4])
      value = pack(form(#b), unpack(b))
    else
      value = pack('<dd', b[1], b[2])
    end
    call('SET', key, value, 'PX', max(math.ceil((last - now) / 1000), 0) + SLACK_MS)
  elseif g then
    call('SET', key, g, 'PX', g == '-' and BAR_MS or GRANT_MS)
  else
    call('DEL', key)
  end
end

return table.concat(out)
