/* A FUSE file system for tests: a folder, seen through faults that are switched on and off while it is mounted.
 *
 *     faultfs BACKING CONTROL MOUNTPOINT [FUSE options]
 *
 * CONTROL is a text file that is read at every request, one fault a line:
 *
 *     eio NAME OFFSET LENGTH     reads that touch these bytes of the file NAME fail with EIO
 *     hang SECONDS [BYTES]       everything stands still for that long, once BYTES have been read since the mount
 *     gone ERRNO [BYTES]         every request fails with that number, once BYTES have been read since the mount
 *     short BYTES                one read brings no more than that (files opened meanwhile bypass the page cache)
 *     slow BYTES_PER_S           a read of n bytes takes n / BYTES_PER_S, each for itself
 *
 * A wait ends early when its line is gone.  Nothing of this is for production.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

static const char *backing, *control;
static atomic_llong total_read, hung_since_ns;

#define PLACE(path) char place[PATH_MAX]; snprintf(place, sizeof place, "%s%s", backing, path)
#define RESULT(call) ((call) == -1 ? -errno : 0)

/* The arguments of the fault KIND that holds now, as scanf finds them; for eio of the file that is asked for. */
static int fault(const char *kind, const char *name, double *first, double *second)
{
    char line[PATH_MAX + 128], word[16], file[PATH_MAX];
    FILE *faults = fopen(control, "re");
    int found = 0;
    if (!faults)
        return 0;
    while (!found && fgets(line, sizeof line, faults)) {
        *second = 0;
        if (name)
            found = sscanf(line, "%15s %4095s %lf %lf", word, file, first, second) == 4 && !strcmp(word, kind) && !strcmp(file, name);
        else
            found = sscanf(line, "%15s %lf %lf", word, first, second) >= 2 && !strcmp(word, kind);
    }
    fclose(faults);
    return found;
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Whether everything stands still now: for some seconds from the first request on that meets the fault. */
static int stands_still(void)
{
    double seconds, after;
    long long none = 0;
    if (!fault("hang", NULL, &seconds, &after)) {
        hung_since_ns = 0;
        return 0;
    }
    if ((double)total_read < after)
        return 0;
    atomic_compare_exchange_strong(&hung_since_ns, &none, now_ns());
    return (double)(now_ns() - hung_since_ns) < seconds * 1e9;
}

/* What every request meets: a wait, then perhaps the end. */
static int meet(void)
{
    double number, after;
    while (stands_still())
        usleep(5000);
    if (fault("gone", NULL, &number, &after) && (double)total_read >= after)
        return -(int)number;
    return 0;
}

#define MEET() do { int error = meet(); if (error) return error; } while (0)

static int fs_getattr(const char *path, struct stat *status, struct fuse_file_info *info)
{
    (void)info;
    MEET();
    PLACE(path);
    return RESULT(lstat(place, status));
}

static int fs_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
                      enum fuse_readdir_flags flags)
{
    (void)offset, (void)info, (void)flags;
    MEET();
    PLACE(path);
    DIR *folder = opendir(place);
    struct dirent *entry;
    if (!folder)
        return -errno;
    while ((entry = readdir(folder)))
        fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int open_as(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
{
    double most, unused;
    MEET();
    PLACE(path);
    int fd = open(place, (flags & ~O_DIRECT) | O_CLOEXEC, mode);
    if (fd == -1)
        return -errno;
    info->fh = (uint64_t)fd;
    info->direct_io = fault("short", NULL, &most, &unused) != 0;
    return 0;
}

static int fs_open(const char *path, struct fuse_file_info *info) { return open_as(path, info->flags, 0, info); }

static int fs_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    return open_as(path, info->flags | O_CREAT, mode, info);
}

static int fs_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *info)
{
    double first, second;
    MEET();
    if (fault("eio", path + 1, &first, &second) && (double)offset < first + second && (double)offset + (double)size > first)
        return -EIO;
    if (fault("short", NULL, &first, &second) && (double)size > first)
        size = (size_t)first;
    if (fault("slow", NULL, &first, &second))
        usleep((useconds_t)((double)size / first * 1e6));
    ssize_t count = pread((int)info->fh, buffer, size, offset);
    if (count == -1)
        return -errno;
    total_read += count;
    return (int)count;
}

static int fs_write(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *info)
{
    (void)path;
    MEET();
    ssize_t count = pwrite((int)info->fh, buffer, size, offset);
    return count == -1 ? -errno : (int)count;
}

static int fs_release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    close((int)info->fh);
    return 0;
}

static int fs_fsync(const char *path, int only_data, struct fuse_file_info *info)
{
    (void)path, (void)only_data;
    MEET();
    return RESULT(fsync((int)info->fh));
}

static int fs_statfs(const char *path, struct statvfs *status)
{
    MEET();
    PLACE(path);
    return RESULT(statvfs(place, status));
}

static int fs_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    (void)info;
    MEET();
    PLACE(path);
    return RESULT(truncate(place, size));
}

static int fs_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    (void)info;
    MEET();
    PLACE(path);
    return RESULT(utimensat(AT_FDCWD, place, times, AT_SYMLINK_NOFOLLOW));
}

static int fs_chmod(const char *path, mode_t mode, struct fuse_file_info *info)
{
    (void)info;
    MEET();
    PLACE(path);
    return RESULT(chmod(place, mode));
}

static int fs_mkdir(const char *path, mode_t mode) { MEET(); PLACE(path); return RESULT(mkdir(place, mode)); }
static int fs_unlink(const char *path) { MEET(); PLACE(path); return RESULT(unlink(place)); }
static int fs_rmdir(const char *path) { MEET(); PLACE(path); return RESULT(rmdir(place)); }

static int fs_rename(const char *path, const char *to, unsigned int flags)
{
    char target[PATH_MAX];
    MEET();
    PLACE(path);
    snprintf(target, sizeof target, "%s%s", backing, to);
    return RESULT(renameat2(AT_FDCWD, place, AT_FDCWD, target, flags));
}

/* Nothing about files is kept by the kernel: a fault shows at the next request. */
static void *fs_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    config->use_ino = 1;
    return NULL;
}

static const struct fuse_operations OPERATIONS = {
    .init = fs_init, .getattr = fs_getattr, .readdir = fs_readdir, .open = fs_open, .create = fs_create, .read = fs_read,
    .write = fs_write, .release = fs_release, .fsync = fs_fsync, .statfs = fs_statfs, .truncate = fs_truncate,
    .utimens = fs_utimens, .chmod = fs_chmod, .mkdir = fs_mkdir, .unlink = fs_unlink, .rmdir = fs_rmdir, .rename = fs_rename,
};

int main(int count, char *words[])
{
    if (count < 4) {
        fprintf(stderr, "usage: %s BACKING CONTROL MOUNTPOINT [FUSE options]\n", words[0]);
        return 2;
    }
    backing = words[1];
    control = words[2];
    words[2] = words[0];
    umask(0);
    return fuse_main(count - 2, words + 2, &OPERATIONS, NULL);
}
