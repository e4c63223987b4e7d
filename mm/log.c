/* SPDX-License-Identifier: MIT */
/* Log lines, and the formatter that builds them.
 *
 * A line is built in a buffer on the stack and handed to the port whole, so that lines of two CPUs
 * never mix and no lock of mm is held while a console works. The formatter writes at most
 * `capacity` bytes but counts all, as snprintf does.
 *
 *   mm_info("frame 0x%lx", f) -> "[MM] frame 0x1000"
 *   mm_bug("free of ...")     -> "[MM] ERROR: free of ..." , then mm_port_bug() */
#include <mm/log.h>

enum mm_log_level mm_log_level = MM_LOG_INFO;

struct sink {
    char *buffer;
    size_t capacity;
    size_t length; /* of the whole text, written or not */
};

/* One conversion, "%-08.3lx": what stands between '%' and the letter. */
struct conversion {
    bool left, zero, alternate;
    size_t width;
    bool has_precision;
    size_t precision;
    unsigned size_bytes; /* of the argument: 1, 2, 4 or 8 */
};

static void put(struct sink *sink, char c)
{
    if (sink->length + 1 < sink->capacity)
        sink->buffer[sink->length] = c;
    sink->length++;
}

static void put_repeated(struct sink *sink, char c, size_t count)
{
    while (count-- > 0)
        put(sink, c);
}

static void put_bytes(struct sink *sink, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        put(sink, text[i]);
}

/* Text of `bytes` bytes, padded to the width. */
static void put_padded(struct sink *sink, const char *text, size_t bytes,
                       const struct conversion *conversion)
{
    size_t padding = conversion->width > bytes ? conversion->width - bytes : 0;

    if (!conversion->left)
        put_repeated(sink, ' ', padding);
    put_bytes(sink, text, bytes);
    if (conversion->left)
        put_repeated(sink, ' ', padding);
}

static void put_string(struct sink *sink, const char *text, const struct conversion *conversion)
{
    size_t bytes = 0;

    if (text == NULL)
        text = "(null)";
    while ((!conversion->has_precision || bytes < conversion->precision) && text[bytes] != '\0')
        bytes++;
    put_padded(sink, text, bytes, conversion);
}

/* A number: sign or "0x", zeroes up to precision or width, digits. */
static void put_number(struct sink *sink, uint64_t value, const char *prefix, unsigned base,
                       const char *digits, const struct conversion *conversion)
{
    char reversed[20]; /* 2^64 - 1 has 20 decimal digits */
    size_t count = 0, prefix_bytes = 0, zeroes = 0;

    for (; value != 0; value /= base)
        reversed[count++] = digits[value % base];
    while (prefix[prefix_bytes] != '\0')
        prefix_bytes++;
    size_t least = conversion->has_precision ? conversion->precision : 1;
    if (count < least)
        zeroes = least - count;
    size_t bytes = prefix_bytes + zeroes + count;
    if (conversion->zero && !conversion->left && !conversion->has_precision &&
        bytes < conversion->width) {
        zeroes += conversion->width - bytes;
        bytes = conversion->width;
    }
    size_t padding = conversion->width > bytes ? conversion->width - bytes : 0;

    if (!conversion->left)
        put_repeated(sink, ' ', padding);
    put_bytes(sink, prefix, prefix_bytes);
    put_repeated(sink, '0', zeroes);
    while (count > 0)
        put(sink, reversed[--count]);
    if (conversion->left)
        put_repeated(sink, ' ', padding);
}

static int64_t sign_extend(uint64_t value, unsigned size_bytes)
{
    unsigned unused_bits = 64 - 8 * size_bytes;

    return (int64_t)(value << unused_bits) >> unused_bits;
}

static uint64_t zero_extend(uint64_t value, unsigned size_bytes)
{
    return value & (UINT64_MAX >> (64 - 8 * size_bytes));
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *read_flags(const char *format, struct conversion *conversion)
{
    for (;; format++) {
        if (*format == '-')
            conversion->left = true;
        else if (*format == '0')
            conversion->zero = true;
        else if (*format == '#')
            conversion->alternate = true;
        else
            return format;
    }
}

static const char *read_number(const char *format, size_t *number)
{
    *number = 0;
    while (is_digit(*format))
        *number = *number * 10 + (size_t)(*format++ - '0');
    return format;
}

static const char *read_length(const char *format, struct conversion *conversion)
{
    conversion->size_bytes = 4;
    for (;; format++) {
        if (*format == 'h')
            conversion->size_bytes -= conversion->size_bytes > 1 ? conversion->size_bytes / 2 : 0;
        else if (*format == 'l' || *format == 'z' || *format == 'j' || *format == 't')
            conversion->size_bytes = 8;
        else
            return format;
    }
}

/* va_list is an array type on x86-64: passed on inside a struct, it stays one object. */
struct arguments {
    va_list list;
};

static const char *read_conversion(const char *format, struct conversion *conversion,
                                   struct arguments *arguments)
{
    *conversion = (struct conversion){ 0 };
    format = read_flags(format, conversion);
    if (*format == '*') {
        int width = va_arg(arguments->list, int);
        conversion->left |= width < 0;
        conversion->width = (size_t)(width < 0 ? -(int64_t)width : width);
        format++;
    } else {
        format = read_number(format, &conversion->width);
    }
    if (*format == '.') {
        conversion->has_precision = true;
        if (format[1] == '*') {
            int precision = va_arg(arguments->list, int);
            conversion->has_precision = precision >= 0;
            conversion->precision = (size_t)(precision < 0 ? 0 : precision);
            format += 2;
        } else {
            format = read_number(format + 1, &conversion->precision);
        }
    }
    return read_length(format, conversion);
}

static uint64_t next_integer(struct arguments *arguments, const struct conversion *conversion)
{
    return conversion->size_bytes == 8 ? va_arg(arguments->list, uint64_t)
                                       : va_arg(arguments->list, unsigned);
}

static void put_integer(struct sink *sink, char letter, uint64_t value,
                        const struct conversion *conversion)
{
    static const char lower[] = "0123456789abcdef", upper[] = "0123456789ABCDEF";
    unsigned size = conversion->size_bytes;

    if (letter == 'd' || letter == 'i') {
        int64_t number = sign_extend(value, size);
        uint64_t magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
        put_number(sink, magnitude, number < 0 ? "-" : "", 10, lower, conversion);
        return;
    }
    value = zero_extend(value, size);
    if (letter == 'u')
        put_number(sink, value, "", 10, lower, conversion);
    else if (letter == 'x')
        put_number(sink, value, conversion->alternate && value != 0 ? "0x" : "", 16, lower,
                   conversion);
    else
        put_number(sink, value, conversion->alternate && value != 0 ? "0X" : "", 16, upper,
                   conversion);
}

/* Carries out the conversion whose letter is `letter`; false if there is no such conversion. */
static bool put_conversion(struct sink *sink, char letter, const struct conversion *conversion,
                           struct arguments *arguments)
{
    char c;

    switch (letter) {
    case 'c':
        c = (char)va_arg(arguments->list, int);
        put_padded(sink, &c, 1, conversion);
        return true;
    case 's':
        put_string(sink, va_arg(arguments->list, const char *), conversion);
        return true;
    case 'p':
        put_number(sink, (uintptr_t)va_arg(arguments->list, void *), "0x", 16, "0123456789abcdef",
                   conversion);
        return true;
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
        put_integer(sink, letter, next_integer(arguments, conversion), conversion);
        return true;
    default:
        return false;
    }
}

size_t mm_vformat(char *buffer, size_t capacity, const char *format, va_list list)
{
    struct sink sink = { buffer, capacity, 0 };
    struct arguments arguments;

    va_copy(arguments.list, list);
    while (*format != '\0') {
        if (*format != '%') {
            put(&sink, *format++);
            continue;
        }
        struct conversion conversion;
        const char *start = format;
        format = read_conversion(format + 1, &conversion, &arguments);
        if (*format == '%')
            put(&sink, '%');
        else if (!put_conversion(&sink, *format, &conversion, &arguments))
            put_bytes(&sink, start, (size_t)(format - start) + (*format != '\0'));
        if (*format != '\0')
            format++;
    }
    va_end(arguments.list);
    if (capacity > 0)
        buffer[sink.length < capacity ? sink.length : capacity - 1] = '\0';
    return sink.length;
}

size_t mm_format(char *buffer, size_t capacity, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    size_t length = mm_vformat(buffer, capacity, format, arguments);
    va_end(arguments);
    return length;
}

static void format_line(char line[MM_LOG_LINE_MAX], const char *prefix, const char *format,
                        va_list arguments)
{
    size_t used = mm_format(line, MM_LOG_LINE_MAX, "[MM] %s", prefix);

    mm_vformat(line + used, MM_LOG_LINE_MAX - used, format, arguments);
}

void mm_log_write(enum mm_log_level level, const char *format, ...)
{
    char line[MM_LOG_LINE_MAX];
    va_list arguments;

    va_start(arguments, format);
    format_line(line, "", format, arguments);
    va_end(arguments);
    mm_port_log(level, line);
}

void mm_bug(const char *format, ...)
{
    char line[MM_LOG_LINE_MAX];
    va_list arguments;

    va_start(arguments, format);
    format_line(line, "ERROR: ", format, arguments);
    va_end(arguments);
    mm_port_log(MM_LOG_ERROR, line);
    mm_port_bug(line);
}

void mm_fatal(const char *format, ...)
{
    char line[MM_LOG_LINE_MAX];
    va_list arguments;

    va_start(arguments, format);
    format_line(line, "ERROR: ", format, arguments);
    va_end(arguments);
    mm_port_log(MM_LOG_ERROR, line);
    mm_port_halt(line);
}
