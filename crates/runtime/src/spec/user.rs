//! Who a container runs as: `user[:group]` looked up in the image's `/etc/passwd` and `/etc/group`.

/// The ids of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The primary group's id.
    pub gid: u32,
    /// Groups of the user that `/etc/group` tells, with the primary one.
    pub groups: Vec<u32>,
}

/// Why a user cannot be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number is none of an id.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

/// Looks up `user[:group]`, each by name or number. An empty text is root.
pub fn look_up(text: &str, passwd: &str, group: &str) -> Result<User, Error> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        let id = fields.get(2).and_then(|field| field.parse::<u32>().ok());
        fields.len() >= 4 && (fields[0] == user || (number.is_some() && id == number))
    });
    let (uid, mut gid, name) = match (&entry, number) {
        (Some(fields), _) => {
            let id = |index: usize| fields[index].parse::<u32>().map_err(|_| Error::NoUser(user.to_owned()));
            (id(2)?, id(3)?, Some(fields[0]))
        }
        (None, Some(number)) => (number, 0, None),
        (None, None) => return Err(Error::NoUser(user.to_owned())),
    };
    if let Some(wanted) = wanted_group.filter(|wanted| !wanted.is_empty()) {
        gid = group_id(wanted, group)?;
    }
    let mut groups = vec![gid];
    if let Some(name) = name.filter(|_| wanted_group.is_none()) {
        for fields in group.lines().map(|line| line.split(':').collect::<Vec<_>>()) {
            let member = fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name));
            if let Some(id) = fields.get(2).and_then(|field| field.parse().ok()).filter(|_| member)
                && !groups.contains(&id)
            {
                groups.push(id);
            }
        }
    }
    Ok(User { uid, gid, groups })
}

fn group_id(wanted: &str, group: &str) -> Result<u32, Error> {
    let found = group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == wanted)
        .and_then(|fields| fields.get(2)?.parse().ok());
    match (found, number(wanted)?) {
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Err(Error::NoGroup(wanted.to_owned())),
    }
}

fn number(text: &str) -> Result<Option<u32>, Error> {
    match text.parse::<u64>() {
        Ok(number) if number <= 2_147_483_647 => Ok(u32::try_from(number).ok()),
        Ok(_) => Err(Error::Range),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:web,other\n";

    fn user(uid: u32, gid: u32, groups: &[u32]) -> Result<User, Error> {
        Ok(User { uid, gid, groups: groups.to_vec() })
    }

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(look_up("", PASSWD, GROUP), user(0, 0, &[0]));
        assert_eq!(look_up("web", PASSWD, GROUP), user(33, 34, &[34, 50]));
        assert_eq!(look_up("33", PASSWD, GROUP), user(33, 34, &[34, 50]));
        assert_eq!(look_up("1000", PASSWD, GROUP), user(1000, 0, &[0]));
        assert_eq!(look_up("1000:1001", "", ""), user(1000, 1001, &[1001]));
        assert_eq!(look_up("web:logs", PASSWD, GROUP), user(33, 50, &[50]));
    }

    #[test]
    fn unknown_names_are_told() {
        assert_eq!(look_up("nobody", PASSWD, GROUP), Err(Error::NoUser("nobody".to_owned())));
        assert_eq!(look_up("web:nogroup", PASSWD, GROUP), Err(Error::NoGroup("nogroup".to_owned())));
        assert_eq!(look_up("4294967295", PASSWD, GROUP), Err(Error::Range));
        assert_eq!(look_up("x", "damaged\n::\n", ""), Err(Error::NoUser("x".to_owned())));
    }
}
